"""explain: from Redis, from files; what is no request."""

import json
from pathlib import Path

import pytest

from control.commands.explain import facts_of
from control.commands.failure import Failed
from control.policy.explain import explain
from control.policy.snapshot import build
from tests.cli import Mitmesh, mitmesh_fixture  # noqa: F401
from tests.conftest import Valkey

POLICY = """
service: reviews
hosts: ["shop.example:8443"]
endpoints: {v1: ["10.0.0.1:80"], v2: ["10.0.0.2:80"]}
routes:
  - {name: testers, match: {path: {prefix: /api}, headers: {x-group: qa}}, to: v2}
  - {name: web, match: {source: web}, to: v1}
  - {name: canary, to: {v1: 90, v2: 10}, retry: 3}
"""


def explained(mitmesh: Mitmesh, *arguments: str) -> dict[str, object]:
    ran = mitmesh("explain", *arguments, "--json")
    assert (ran.code, ran.err) == (0, "")
    found: dict[str, object] = json.loads(ran.out)
    return found


def test_from_redis(mitmesh: Mitmesh) -> None:
    mitmesh("apply", "-f", "-", stdin=POLICY)
    tester = explained(mitmesh, "get", "http://reviews/api/x?y=1", "-H", "x-group: qa", "--header", "a:b")
    assert (tester["service"], tester["route"], tester["matched"], tester["revision"]) == (
        "reviews",
        "testers",
        True,
        1,
    )
    assert [share["version"] for share in tester["to"]] == ["v2"]  # type: ignore[attr-defined]
    assert explained(mitmesh, "GET", "reviews", "--from", "WEB")["route"] == "web"
    canary = explained(mitmesh, "GET", "https://shop.example:8443/")
    assert (canary["route"], canary["retry"]["attempts"]) == ("canary", 3)  # type: ignore[index]
    assert [considered["route"] for considered in canary["considered"]] == ["testers", "web"]  # type: ignore[attr-defined]
    assert explained(mitmesh, "GET", "http://shop.example/")["service"] is None
    text = mitmesh("explain", "GET", "http://reviews/").out
    assert "canary" in text
    assert "testers" in text
    assert "{" not in text.splitlines()[0]


def test_the_text_is_what_the_policy_package_says(mitmesh: Mitmesh) -> None:
    mitmesh("apply", "-f", "-", stdin=POLICY)
    documents = {"reviews": json.dumps(json.loads(mitmesh("get", "reviews", "-o", "json").out))}
    explanation = explain(build(1, documents), facts_of("GET", "http://reviews/", [], ""))
    assert mitmesh("explain", "GET", "http://reviews/").out.splitlines() == explanation.lines()
    assert explained(mitmesh, "GET", "http://reviews/") == json.loads(json.dumps(explanation.data()))


def test_from_files_without_redis(
    mitmesh: Mitmesh,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MITMESH_REDIS", "redis://127.0.0.1:1/0")
    (tmp_path / "policy.yaml").write_text(POLICY)
    assert explained(mitmesh, "GET", "http://reviews/", "-f", str(tmp_path))["route"] == "canary"
    bad = mitmesh(
        "explain",
        "GET",
        "http://reviews/",
        "-f",
        "-",
        stdin="{service: a, retry: 999}\n---\n{service: b, x: 1}",
    )
    assert (bad.code, bad.out, len(bad.err.splitlines())) == (1, "", 2)
    twice = mitmesh(
        "explain", "GET", "a", "-f", "-", stdin="{service: a, hosts: [x]}\n---\n{service: b, hosts: [x]}"
    )
    assert (twice.code, twice.out, "x" in twice.err) == (1, "", True)


def test_of_what_proxies_refuse(mitmesh: Mitmesh, valkey_server: Valkey) -> None:
    mitmesh("apply", "-f", "-", stdin=POLICY)
    valkey_server.command("HSET", "{mesh}:policy", "broken", "{")
    ran = mitmesh("explain", "GET", "http://reviews/")
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert lines[0].startswith("redis: broken: ")
    assert lines[-1] == "error: proxies refuse revision 1 for this and keep the one before"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["GE T", "http://a/"], "METHOD"),
        (["", "http://a/"], "METHOD"),
        (["GET", ""], "URL"),
        (["GET", "ftp://a/"], "URL"),
        (["GET", "http:///x"], "URL"),
        (["GET", "http://a:b/"], "URL"),
        (["GET", "http://a:99999/"], "URL"),
        (["GET", "http://[::1/"], "URL"),
        (["GET", "http://a/b c"], "URL"),
        (["GET", "http://a/\n"], "URL"),
        (["GET", "http://a/", "-H", "x-user"], "-H"),
        (["GET", "http://a/", "-H", "x user: a"], "-H"),
        (["GET", "http://a/", "-H", ": a"], "-H"),
        (["GET", "http://a/", "--from", "a b"], "--from"),
        (["GET"], "Missing argument"),
    ],
)
def test_no_request(mitmesh: Mitmesh, arguments: list[str], said: str) -> None:
    ran = mitmesh("explain", *arguments)
    assert (ran.code, ran.out, said in ran.err, "Traceback" in ran.err) == (2, "", True, False), ran


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "field"),
    [
        ("http://Reviews", "reviews", 80, "/", b"Reviews"),
        ("https://a/b?c=d#e", "a", 443, "/b?c=d", b"a"),
        ("a.b:81?x", "a.b", 81, "/?x", b"a.b:81"),
        ("http://u:p@[::1]:8/%41", "::1", 8, "/%41", b"[::1]:8"),
    ],
)
def test_urls(url: str, host: str, port: int, target: str, field: bytes) -> None:
    facts = facts_of("get", url, [], "")
    assert (facts.method, facts.host, facts.port, facts.target) == ("GET", host, port, target)
    assert facts.fields == ((b"Host", field),)


def test_headers() -> None:
    facts = facts_of("GET", "http://a/", ["X-User:  ann ", "x-user:bob", "hOST: b", "x-caf: é"], "Web")
    assert facts.fields == (
        (b"X-User", b"ann"),
        (b"x-user", b"bob"),
        (b"hOST", b"b"),
        (b"x-caf", "é".encode()),
    )
    assert facts.source == "web"
    with pytest.raises(Failed):
        facts_of("GET", "http://a/é", [], "")


GUARDED = """
service: ledger
endpoints: ["10.0.0.1:80"]
authorization: {allow: [{from: web, methods: GET}, {from: spiffe://other/*}], deny: {paths: {prefix: /admin}}}
routes: [{name: try, match: {path: /try}, authorization: {audit: true, allow: {from: ops}}}, {match: {path: /open}, authorization: {}}]
"""


@pytest.mark.parametrize(
    ("request_", "said", "allowed"),
    [
        (("GET", "http://ledger/", "--from", "Web"), "allowed by allow[0]   (from ledger)", True),
        (("GET", "http://ledger/", "--from", "spiffe://mesh/service/web"), "allowed by allow[0]   (from ledger)", True),
        (("GET", "http://ledger/", "--from", "spiffe://other/ns/X"), "allowed by allow[1]   (from ledger)", True),
        (
            ("GET", "http://ledger/", "--from", "spiffe://other.org/service/web"),
            "refused (403 RBAC): no allow rule holds for spiffe://other.org/service/web   (from ledger)",
            False,
        ),
        (
            ("GET", "http://ledger/"),
            "refused (403 RBAC): no allow rule holds for a caller without a verified name   (from ledger)",
            False,
        ),
        (("POST", "http://ledger/", "--from", "web"), "refused (403 RBAC): no allow rule holds for web   (from ledger)", False),
        (("GET", "http://ledger/admin", "--from", "web"), "refused (403 RBAC) by deny[0]   (from ledger)", False),
        (
            ("GET", "http://ledger//admin", "--from", "web"),
            "refused (403 RBAC) by deny[0], read as /admin   (from ledger)",
            False,
        ),
        (
            ("GET", "http://ledger/try", "--from", "web"),
            "would be refused (audit: let pass, flag RBAC_AUDIT): no allow rule holds for web   (from ledger: try)",
            True,
        ),
        (("GET", "http://ledger/open"), "allowed: no rule speaks against it   (from ledger: routes[1])", True),
    ],
)  # fmt: skip
def test_whether_the_caller_may(
    mitmesh: Mitmesh, tmp_path: Path, request_: tuple[str, ...], said: str, allowed: bool
) -> None:
    file = tmp_path / "ledger.yaml"
    file.write_text(GUARDED)
    ran = mitmesh("explain", *request_, "-f", str(file))
    assert f"authorization    {said}" in ran.out.splitlines()
    access = explained(mitmesh, *request_, "-f", str(file))["authorization"]
    assert access["allowed"] is allowed  # type: ignore[index]
    assert access["rules"] is not None  # type: ignore[index]


def test_a_caller_that_is_no_name_is_refused(mitmesh: Mitmesh) -> None:
    ran = mitmesh("explain", "GET", "http://x/", "--from", "spiffe://A b")
    assert ran.code != 0
    assert "--from: write the name of a service, such as web, or spiffe://MESH/service/NAME" in ran.err
