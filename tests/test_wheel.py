"""The wheel: what is in it, and that it works where it is installed, far from this checkout."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=50)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds nothing but the unpacked wheel and its scripts; the dependencies come from here."""
    folder = tmp_path_factory.mktemp("installed")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=50)
    return folder


def run(installed: Path, cwd: Path, *command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_both_packages_whole_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "addons", "control"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert held == {name for name in tracked.stdout.split() if (ROOT / name).exists()}
    assert {"addons/mesh.py", "control/cli.py", "control/demo/story.py", "control/article_server.py"} <= held


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        (entries,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        fields = Parser().parsestr(archive.read(metadata).decode())
        assert "mitmesh = control.cli:main" in archive.read(entries).decode()
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    assert fields["Name"] == "mitmesh"
    assert fields["License-Expression"] == "MIT"
    assert fields["Requires-Python"] == ">=3.11"
    assert set(fields.get_all("Provides-Extra")) == {"bench", "demo", "dev"}
    assert "mitmproxy<13,>=11.0.2" in fields.get_all("Requires-Dist")


def test_the_command_runs_from_an_empty_folder(installed, tmp_path):
    said = run(installed, tmp_path, sys.executable, str(installed / "bin" / "mitmesh"), "version")
    assert "0.1.0" in said


def test_the_installed_proxy_is_made_of_the_installed_addons(installed, tmp_path):
    command = [sys.executable, str(installed / "bin" / "mitmesh"), "proxy", "--outbound", "15001", "--print"]
    assert f"{installed / 'addons'}/" in run(installed, tmp_path, *command)


def test_the_addons_load_from_where_they_are_installed(installed, tmp_path):
    script = "import addons.mesh, control.cli; print(addons.mesh.__file__, control.cli.__file__)"
    for path in run(installed, tmp_path, sys.executable, "-P", "-c", script).split():
        assert Path(path).is_relative_to(installed)
