"""Redis with TLS on both sides, as a command and a proxy are told of it: by options, environment, or in the URL."""

import json
from pathlib import Path

import pytest

from control.store_server import with_tls_files
from tests.cli import Mitmesh, mitmesh_fixture  # noqa: F401
from tests.conftest import REDIS, StartValkey
from tests.mesh_process import Mesh, Proxy, get, running
from tests.test_store_servers import redis, tls_files


@pytest.mark.parametrize(
    ("url", "files", "expected"),
    [
        ("redis://h", {}, "redis://h"),
        ("redis://h", {"ca": ""}, "redis://h"),
        ("rediss://h", {"ca": "/a b.pem"}, "rediss://h?ssl_ca_certs=/a%20b.pem"),
        ("rediss://h/0?x=1", {"cert": "c", "key": "k"}, "rediss://h/0?x=1&ssl_certfile=c&ssl_keyfile=k"),
        ("rediss://h?ssl_ca_certs=mine", {"ca": "other"}, "rediss://h?ssl_ca_certs=mine"),
        ("rediss+sentinel://h/s", {"ca": "a"}, "rediss+sentinel://h/s?ssl_ca_certs=a"),
        ("rediss://h?ssl_certfile=c", {"key": "k"}, "rediss://h?ssl_certfile=c&ssl_keyfile=k"),
    ],
)
def test_files_in_the_url(url: str, files: dict[str, str], expected: str) -> None:
    assert with_tls_files(url, files) == expected


@pytest.mark.parametrize(
    ("url", "files", "reason"),
    [
        ("redis://h", {"ca": "a"}, "write rediss://"),
        ("unix:///s", {"cert": "a"}, "write rediss://"),
        ("rediss://h", {"key": "k"}, "a client's key needs its certificate, too"),
    ],
)
def test_files_that_are_of_no_use(url: str, files: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        with_tls_files(url, files)


def test_the_commands_refusals(mitmesh: Mitmesh, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = mitmesh("--redis-ca", "x", "status")
    assert (ran.code, ran.err) == (
        2,
        "error: --redis-ca: certificates are for a Redis with TLS: write rediss://\n",
    )
    ran = mitmesh("--redis", "rediss://127.0.0.1:1", "--redis-ca", "/nowhere", "status")
    assert (ran.code, "ssl_ca_certs: there is no /nowhere" in ran.err) == (1, True)
    # Of the environment, they may be for another Redis.
    monkeypatch.setenv("MITMESH_REDIS_CA", "/nowhere")
    assert mitmesh("status").code == 0
    ran = mitmesh("--redis-cert", "c", "--redis-key", "k", "proxy", "--outbound", "1", "--print")
    assert "--set mesh_redis_cert=c --set mesh_redis_key=k" in ran.out


@pytest.mark.timeout(120)
@pytest.mark.skipif(not Path(REDIS).exists(), reason=f"no {REDIS}")
@pytest.mark.parametrize("by", ["options", "environment"])
def test_a_server_that_wants_certificates(
    tmp_path: Path, start_valkey: StartValkey, mitmesh: Mitmesh, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    files = tls_files(tmp_path)
    options = {
        "tls-ca-cert-file": files["ssl_ca_certs"],
        "tls-cert-file": files["ssl_certfile"],
        "tls-key-file": files["ssl_keyfile"],
        "user": "default off\nuser ann on >SECRET ~* &* +@all",
    }
    server = start_valkey(tls=True, options=options, binary=redis())
    url = f"rediss://ann:SECRET@{server.address}/0"
    given = {"ca": files["ssl_ca_certs"], "cert": files["ssl_certfile"], "key": files["ssl_keyfile"]}
    environment = {f"MITMESH_REDIS_{name.upper()}": file for name, file in given.items()}
    policy = "{service: web, respond: {status: 200, body: hello}}"
    assert "TLS failed" in mitmesh("--redis", url, "apply", "-f", "-", stdin=policy).err
    if by == "options":
        said = [part for name, file in given.items() for part in (f"--redis-{name}", file)]
        proxy = Proxy(
            tmp_path / "proxy", url, lean=True, options={f"mesh_redis_{n}": f for n, f in given.items()}
        )
    else:
        said = []
        for name, file in environment.items():
            monkeypatch.setenv(name, file)
        proxy = Proxy(tmp_path / "proxy", url, lean=True, environment=environment)
    assert mitmesh(*said, "--redis", url, "apply", "-f", "-", stdin=policy).code == 0
    with running(proxy):
        query = "&".join(f"{name}={file}" for name, file in files.items())
        proxy.in_force(Mesh(f"{url}?{query}"), 1)
        assert get(proxy.port, "http://web/").text == "hello"
        ran = mitmesh(*said, "--redis", url, "status", "--json")
        assert [node["node"] for node in json.loads(ran.out)["nodes"]] == [proxy.node]
        assert "SECRET" not in proxy.console()
