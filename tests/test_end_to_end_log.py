"""The access log of a real proxy: whole, in order, never lost at a normal stop, and found again after it was moved."""

import json
import re
import signal
import socket
import subprocess
import threading

import pytest

from tests.conftest import StartValkey
from tests.mesh_process import (
    LANES,
    MITMDUMP,
    ROOT,
    Client,
    Mesh,
    Proxy,
    World,
    eventually,
    get,
    running,
    with_options,
)
from tests.upstream import Upstream, saying

FIELDS = {
    "time", "node", "service", "source", "peer", "tls", "method", "host", "path", "protocol", "status", "flags", "bytes_in",
    "bytes_out", "duration_ms", "upstream_ms", "attempts", "route", "version", "revision", "request_id", "user_agent",
}  # fmt: skip


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("log"), **with_options(request.param, mesh_service="shop")) as world:
        yield world


def test_a_line_has_every_field(world):
    with Upstream(saying(201, "12345")) as upstream:
        service = world.serve(
            f'endpoints: {{v1: ["{upstream.address}"]}}\nroutes: [{{name: canary, match: {{path: {{prefix: /c}}}}, to: v1}}]'
        )
        world.send("POST", f"http://{service}/c?q=ä".replace("ä", "%C3%A4"), b"abc", {"user-agent": "test/1"})
        line = world.line("/c?q=%C3%A4")
    assert set(line) == FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"])
    assert line["duration_ms"] >= line["upstream_ms"] > 0
    (attempt,) = line["attempts"]
    assert attempt.pop("ms") > 0
    assert attempt == {"endpoint": upstream.address, "status": 201}
    expected = {
        "node": world.proxy.node, "service": service, "source": "shop", "peer": None, "tls": None, "method": "POST", "host": f"{service}:80",
        "protocol": "HTTP/1.1", "status": 201, "flags": "-", "bytes_in": 3, "bytes_out": 5, "route": "canary",
        "version": "v1", "revision": world.mesh.stored().revision, "user_agent": "test/1",
    }  # fmt: skip
    assert {name: line[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("field", "shown"),
    [(b'quote"back\\slash', 'quote"back\\slash'), (b"\xc3\xa4", "ä"), (b"tab\tx", "tab\tx"), (b"\xff", None)],
)
def test_what_a_client_says_cannot_break_a_line(world, field, shown):
    with Upstream() as upstream:
        service = world.serve("", upstream.address)
        path = f"/hostile/{field.hex()}"
        with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
            client.sendall(
                f"GET http://{service}{path} HTTP/1.1\r\nhost: {service}\r\nuser-agent: ".encode()
                + field
                + b"\r\n\r\n"
            )
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        line = world.line(path)
    if shown is not None:
        assert line["user_agent"] == shown
    # Also for readers that take a line only if all of it is UTF-8.
    world.proxy.access_log.read_text(encoding="utf-8", errors="strict")


def test_on_off_sample_and_only_errors(world):
    with Upstream(
        lambda request, connection: saying(int(request.target[-3:]))(request, connection)
    ) as upstream:
        services = {
            name: world.serve(f"access_log: {rule}", upstream.address)
            for name, rule in {
                "on": "on", "off": "off", "errors": "{only: errors}", "half": "{sample: 50}", "none": "{sample: 0}",
            }.items()
        }  # fmt: skip
        with Client(world.proxy.port) as client:
            for name, service in services.items():
                for number in range(100 if name == "half" else 2):
                    client.get(f"http://{service}/{name}/{number}/200")
                    client.get(f"http://{service}/{name}/{number}/404")
            client.get(f"http://{services['on']}/the-end/200")
        world.line("/the-end/200")
        counts = dict.fromkeys(services, 0) | {"200": 0, "404": 0}
        for line in world.proxy.lines():
            name = line["path"].split("/")[1]
            if name in counts:
                counts[name] += 1
                if name == "errors":
                    counts[str(line["status"])] += 1
    assert counts["on"] == 4
    assert counts["off"] == counts["none"] == 0
    assert (counts["errors"], counts["200"], counts["404"]) == (2, 0, 2)
    # 200 draws of a half: 50 are seven standard deviations.
    assert 50 < counts["half"] < 150


def test_the_file_is_opened_anew_after_it_was_moved(world):
    moved = world.proxy.access_log.with_suffix(".1")
    with Upstream() as upstream:
        service = world.serve("", upstream.address)
        world.get(f"http://{service}/before-move")
        world.line("/before-move")
        world.proxy.access_log.rename(moved)
        world.get(f"http://{service}/after-move")
        world.line("/after-move")
        assert "/before-move" in moved.read_text()
        assert "/before-move" not in world.proxy.access_log.read_text()
        # Deleted instead of moved; then the whole folder in its way, as long as it takes.
        world.proxy.access_log.unlink()
        world.get(f"http://{service}/after-delete")
        world.line("/after-delete")


def test_lines_go_on_after_the_file_could_not_be_opened_for_a_while(tmp_path, redis_url):
    folder = tmp_path / "logs"
    folder.mkdir()
    proxy = Proxy(tmp_path / "proxy", redis_url, options={"mesh_access_log": str(folder / "access.log")})
    with Upstream() as upstream, running(proxy):
        get(proxy.port, f"http://{upstream.address}/first")
        eventually(lambda: "/first" in (folder / "access.log").read_text())
        folder.rename(tmp_path / "away")
        get(proxy.port, f"http://{upstream.address}/meanwhile")
        # Nothing is lost: it goes where the file went.
        eventually(lambda: "/meanwhile" in (tmp_path / "away/access.log").read_text())
        folder.mkdir()
        get(proxy.port, f"http://{upstream.address}/again")
        eventually(
            lambda: (folder / "access.log").exists() and "/again" in (folder / "access.log").read_text()
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("launcher", ["mitmdump", "mitmesh"])
def test_a_normal_stop_loses_no_line(tmp_path, redis_url, launcher, number):
    """Stopped at once after the last of many answers."""
    each, clients = 150, 4
    proxy = Proxy(tmp_path, redis_url)
    if launcher == "mitmesh":
        import sys

        proxy.command = [
            sys.executable, "-m", "control", "proxy", "--redis", redis_url, "--outbound", str(proxy.port),
            "--listen-host", "127.0.0.1", "--access-log", str(proxy.access_log),
        ]  # fmt: skip
        proxy.environment["PYTHONPATH"] = str(ROOT)

    def ask(client_number: int) -> None:
        with Client(proxy.port) as client:
            for index in range(each):
                assert client.get(f"http://{upstream.address}/{client_number}/{index}").status == 200

    with Upstream() as upstream, running(proxy):
        threads = [threading.Thread(target=ask, args=(index,)) for index in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        proxy.signal(number)
        assert proxy.process is not None
        assert proxy.process.wait(20) == 0
    paths = [line["path"] for line in proxy.lines()]
    assert sorted(paths) == sorted(f"/{client}/{index}" for client in range(clients) for index in range(each))
    assert "Traceback" not in proxy.console()


def test_lines_go_to_standard_output_where_nothing_else_is_said(tmp_path, redis_url):
    """`mitmdump -q`, as in a container."""
    proxy = Proxy(tmp_path, redis_url, options={"mesh_access_log": "-"})
    proxy.command.append("-q")
    with Upstream() as upstream, running(proxy):
        for agent in (b"plain", b"\xff\xfe", "日本".encode()):
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client:
                client.sendall(
                    f"GET http://{upstream.address}/ HTTP/1.1\r\nhost: x\r\nuser-agent: ".encode()
                    + agent
                    + b"\r\n\r\n"
                )
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    lines = [
        json.loads(line) for line in proxy.console_file.read_bytes().decode("utf-8", "strict").splitlines()
    ]
    assert [line["path"] for line in lines] == ["/"] * 3
    assert (lines[0]["user_agent"], lines[2]["user_agent"]) == ("plain", "日本")


def test_a_reader_of_standard_output_that_leaves_does_not_stop_the_proxy(tmp_path, start_valkey: StartValkey):
    proxy = Proxy(tmp_path, start_valkey().url, options={"mesh_access_log": "-"})
    command = [*proxy.command, "-q"]
    assert command[0] == MITMDUMP[0]
    with Upstream() as upstream:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            eventually(lambda: _listens(proxy.port))
            assert get(proxy.port, f"http://{upstream.address}/1").status == 200
            assert process.stdout
            assert b'"/1"' in process.stdout.readline()
            process.stdout.close()
            for _ in range(20):
                assert get(proxy.port, f"http://{upstream.address}/2").status == 200
            process.terminate()
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_no_log_at_all(tmp_path, redis_url):
    proxy = Proxy(tmp_path, redis_url, options={"mesh_access_log": ""})
    mesh = Mesh(redis_url)
    mesh.apply("service: web\nrespond: {body: x}")
    with running(proxy):
        assert get(proxy.port, "http://web/").body == b"x"
    assert '"request_id"' not in proxy.console()
