"""Starting with mistakes, and mesh.py that is edited while it runs: a real mitmdump."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.mesh_process import LANES, MITMDUMP, ROOT, Client, Mesh, Proxy, eventually, get, running, send
from tests.upstream import Upstream


def mistakes(folder: Path) -> dict[str, tuple[dict[str, str], str]]:
    """What is set, and what is said of it."""
    return {
        "redis": ({"mesh_redis": "http://127.0.0.1"}, "mesh_redis: "),
        "redis port": ({"mesh_redis": "redis://:secret@127.0.0.1:notaport"}, "mesh_redis: "),
        "mesh": ({"mesh_name": "a b"}, "mesh_name: use letters, digits, '.', '_' and '-', got 'a b'"),
        "no mesh": ({"mesh_name": ""}, "mesh_name: give a name, such as mesh"),
        "service": ({"mesh_service": "a/b"}, "mesh_service: use letters"),
        "node": ({"mesh_node": "a:b"}, "mesh_node: use letters"),
        "inbound": ({"mesh_inbound": "http"}, "mesh_inbound: write a port from 1 to 65535, got 'http'"),
        "inbound range": ({"mesh_inbound": "70000"}, "mesh_inbound: write a port from 1 to 65535, got '70000'"),
        "log": ({"mesh_access_log": str(folder)}, f"mesh_access_log: cannot write {folder}: Is a directory"),
        "log folder": ({"mesh_access_log": "/no/such/log"}, "mesh_access_log: cannot write /no/such/log: "),
    }  # fmt: skip


@pytest.mark.parametrize("launcher", ["mitmdump", "mitmesh"])
@pytest.mark.parametrize("mistake", mistakes(Path()))
def test_a_mistake_ends_the_start_with_one_line_that_says_what(tmp_path, redis_url, launcher, mistake):
    given, said = mistakes(tmp_path)[mistake]
    settings = {"mesh_redis": redis_url, "flow_detail": "0", "mesh_access_log": "", **given}
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    port = free_port()
    if launcher == "mitmdump":
        command = [*MITMDUMP, "-s", str(ROOT / "addons/mesh.py"), "--mode", f"regular@{port}", *options]
    else:
        command = [sys.executable, "-m", "control", "proxy", "--outbound", str(port), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MITMESH_")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=40, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert said in output
    assert "Traceback" not in output
    assert "secret" not in output


def test_a_port_that_is_taken_is_named(tmp_path, redis_url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = Proxy(tmp_path, redis_url, port=port).launch()
        assert proxy.process is not None
        assert proxy.process.wait(40) == 1
        assert str(port) in proxy.console()
        assert "Traceback" not in proxy.console()


# mitmproxy loads a script anew when its file changes


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy whose mesh.py may be edited."""
    for package in ("addons", "control"):
        shutil.copytree(
            ROOT / package, tmp_path / "checkout" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path / "checkout"


def save(script: Path, text: str) -> None:
    """In one step, as editors do: half a file would be loaded, too. With a time that looks later than the last."""
    later = script.stat().st_mtime + 10
    fresh = script.with_suffix(".new")
    fresh.write_text(text)
    os.utime(fresh, (later, later))
    fresh.replace(script)


def edit(checkout: Path, proxy: Proxy) -> None:
    """Returns once the proxy has loaded it anew."""
    script = checkout / "addons/mesh.py"
    before = proxy.console().count("Loading script")
    save(script, script.read_text() + "\n# edited\n")
    eventually(lambda: proxy.console().count("Loading script") > before)


def test_an_edited_script_is_loaded_anew_and_no_request_fails(tmp_path, redis_url, checkout):
    mesh = Mesh(redis_url)
    with Upstream() as upstream:
        mesh.apply(
            f'service: web\nendpoints: ["{upstream.address}"]\nresponse_headers: {{set: {{x-policy: one}}}}'
        )
        proxy = Proxy(tmp_path / "proxy", mesh.url, mesh_script=checkout / "addons/mesh.py")
        failed: list[object] = []
        over = threading.Event()

        def ask() -> None:
            with Client(proxy.port) as client:
                while not over.is_set():
                    try:
                        got = client.get("http://web/load")
                    except Exception as error:
                        failed.append(error)
                        return
                    if (got.status, got.header("x-policy")) != (200, "one"):
                        failed.append(got)
                        return

        with running(proxy):
            proxy.in_force(mesh, 1)
            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            for _ in range(3):
                edit(checkout, proxy)
            over.set()
            for thread in threads:
                thread.join()
            assert failed == []
            # One feed, one report, one line for each request.
            revision = mesh.apply(
                f'service: web\nendpoints: ["{upstream.address}"]\nresponse_headers: {{set: {{x-policy: two}}}}'
            )
            proxy.in_force(mesh, revision)
            assert list(mesh.nodes()) == [proxy.node]
            assert get(proxy.port, "http://web/after").header("x-policy") == "two"
            proxy.line("/after")
            assert connections_of(mesh) <= 5
            assert proxy.console().count(f"revision {revision} in force") == 1
        assert "Traceback" not in proxy.console()
        assert "already exists" not in proxy.console()
        assert mesh.nodes() == {}


def connections_of(mesh: Mesh) -> int:
    """How many a server has, the one that asks included."""

    async def count(store) -> int:
        return len(await store._client.client_list())

    return mesh.use(count)


def test_requests_under_way_survive_an_edit(tmp_path, redis_url, checkout):
    """One waits for its answer, one streams, while the script is loaded anew."""
    go = threading.Event()

    def reply(request, connection):
        if request.target == "/stream":
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            go.wait(30)
            return b"4\r\nlast\r\n0\r\n\r\n"
        go.wait(30)
        return b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate"

    with Upstream(reply) as upstream:
        Mesh(redis_url).apply(f'service: web\nendpoints: ["{upstream.address}"]\nretry: 3')
        proxy = Proxy(tmp_path / "proxy", redis_url, mesh_script=checkout / "addons/mesh.py")
        with running(proxy), Client(proxy.port) as waiting, Client(proxy.port) as streaming:
            waiting.connection.request("GET", "http://web/wait")
            streaming.connection.request("GET", "http://web/stream")
            stream = streaming.connection.getresponse()
            assert stream.read1(100) == b"first"
            eventually(lambda: len(upstream.requests) == 2)
            edit(checkout, proxy)
            go.set()
            assert waiting.connection.getresponse().read() == b"late"
            assert stream.read() == b"last"
            assert len(upstream.requests) == 2
            proxy.line("/wait")
            proxy.line("/stream")


def test_an_edit_with_a_mistake_is_told_and_nothing_passes_unrouted(tmp_path, redis_url, checkout):
    mesh = Mesh(redis_url)
    script = checkout / "addons/mesh.py"
    good = script.read_text()
    with Upstream() as upstream:
        mesh.apply('service: "*"\nunknown_hosts: refuse')
        halting = tmp_path / "halting.py"
        halting.write_text(
            "from mitmproxy import exceptions\n"
            "def requestheaders(flow):\n"
            "    if 'x-halt' in flow.request.headers: raise exceptions.AddonHalt\n"
        )
        proxy = Proxy(tmp_path / "proxy", redis_url, mesh_script=script, scripts=[halting])
        with running(proxy):
            assert get(proxy.port, f"http://{upstream.address}/").flag == "NR"
            save(script, "raise RuntimeError('a slip of the pen')\n" + good)
            eventually(lambda: "a slip of the pen" in proxy.console())
            got = get(proxy.port, f"http://{upstream.address}/")
            assert (got.status, got.flag) == (503, "NP")
            assert got.text.startswith("the mesh was unloaded from this proxy")
            got = send(proxy.port, "CONNECT", upstream.address)
            assert (got.status, got.flag) == (503, "NP")
            # Nor what an addon of the user's keeps others from.
            assert get(proxy.port, f"http://{upstream.address}/", x_halt="yes").flag == "NP"
            # Nor does what would be streamed.
            got = send(proxy.port, "POST", f"http://{upstream.address}/", b"x" * 2_000_000)
            assert (got.status, got.flag) == (503, "NP")
            assert upstream.requests == []
            save(script, good)
            eventually(lambda: get(proxy.port, f"http://{upstream.address}/").flag == "NR")


# Connections that are no requests


@pytest.mark.parametrize("lane", LANES)
def test_probes_and_garbage_do_no_harm(tmp_path, redis_url, lane):
    """A port probe, also in the first moments, is what every health check does."""
    proxy = Proxy(tmp_path, redis_url, **lane)
    beginnings = [
        b"",
        b"\r\n",
        b"GE",
        b"\x16\x03\x01",
        b"\x00" * 100,
        b"SSH-2.0-x\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    with Upstream() as upstream, running(proxy):
        for beginning in beginnings * 3:
            for reset in (False, True):
                with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as probe:
                    probe.sendall(beginning)
                    if reset:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert get(proxy.port, f"http://{upstream.address}/").status == 200
    assert "crashed" not in proxy.console()
    assert "Traceback" not in proxy.console()
