"""Several workers on one port: all serve, one that dies comes back, a stop is graceful, nobody outlives the supervisor."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from addons import workers
from addons.workers import take_workers
from control.cli import main
from tests.conftest import free_port
from tests.family import alive, ended, family
from tests.mesh_process import Mesh, Proxy, eventually, get, running
from tests.upstream import Upstream, answer

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ([], (1, [])),
        (["--mode", "regular"], (1, ["--mode", "regular"])),
        (["--workers", "3", "--mode", "regular"], (3, ["--mode", "regular"])),
        (["--mode", "regular", "--workers", "256"], (256, ["--mode", "regular"])),
    ],
)
def test_the_number_is_taken_out(arguments, taken):
    assert take_workers(arguments) == taken


@pytest.mark.parametrize("given", [["0"], ["257"], ["-1"], ["x"], []])
def test_a_bad_number_is_one_line(given):
    with pytest.raises(SystemExit, match="--workers: write a number from 1 to 256"):
        take_workers(["--workers", *given])


@pytest.fixture
def mesh(redis_url):
    return Mesh(redis_url)


class Workers(Proxy):
    """mitmesh proxy with workers, started as its own supervisor."""

    def __init__(self, folder: Path, mesh: Mesh, count: int = 2, **options) -> None:
        super().__init__(folder, mesh.url, lean=True, node=options.pop("node", "w"), **options)
        at = self.command.index("--mode")
        self.command[at:at] = ["--workers", str(count)]
        self.count = count

    @property
    def pids(self) -> set[int]:
        assert self.process is not None
        return {pid for pid in family(self.process.pid) if alive(pid)}

    def all_there(self, mesh: Mesh) -> set[int]:
        """Wait until every worker has told of itself."""
        eventually(lambda: set(mesh.nodes()) == {f"w-{n + 1}" for n in range(self.count)})
        return eventually(lambda: len(self.pids) == self.count and self.pids)


@linux
def test_workers_share_the_port_and_each_has_a_row(mesh, tmp_path, capsys):
    with Upstream() as upstream:
        revision = mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        proxy = Workers(tmp_path, mesh, 3)
        with running(proxy):
            proxy.all_there(mesh)
            eventually(lambda: all(node.revision == revision for node in mesh.nodes().values()))
            for number in range(60):
                assert get(proxy.port, f"http://up/{number}").status == 200
            lines = eventually(lambda: len(proxy.lines()) == 60 and proxy.lines())
            assert {line["node"] for line in lines} == {"w-1", "w-2", "w-3"}
            assert main(["--redis", mesh.url, "status", "--json"]) == 0
            rows = json.loads(capsys.readouterr().out)["nodes"]
            assert sorted(row["node"] for row in rows) == ["w-1", "w-2", "w-3"]
        assert mesh.nodes() == {}


@linux
def test_a_worker_that_is_killed_comes_back(mesh, tmp_path):
    with Upstream() as upstream:
        mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        proxy = Workers(tmp_path, mesh)
        with running(proxy):
            before = proxy.all_there(mesh)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            assert ended(before)
            after = eventually(lambda: len(proxy.pids) == 2 and proxy.pids)
            assert not before & after
            eventually(lambda: "started again" in proxy.console())

            def served():
                try:
                    return get(proxy.port, "http://up/").status == 200
                except OSError:
                    return False

            eventually(served)
            assert proxy.console().count("ended with -9; started again") == 2


@linux
def test_a_stop_is_graceful_and_ends_all(mesh, tmp_path):
    release = threading.Event()

    def slow(request, connection):
        release.wait(20)
        return answer(200, "late")

    with Upstream(slow) as upstream:
        revision = mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        proxy = Workers(tmp_path, mesh, options={"mesh_drain": "20s"})
        with running(proxy):
            pids = proxy.all_there(mesh)
            eventually(lambda: all(node.revision == revision for node in mesh.nodes().values()))
            got = []
            asking = threading.Thread(target=lambda: got.append(get(proxy.port, "http://up/")))
            asking.start()
            eventually(lambda: upstream.requests)
            proxy.signal(signal.SIGTERM)
            # The one that has nothing to do goes at once.
            eventually(lambda: len(proxy.pids) == 1)
            assert proxy.process.poll() is None
            release.set()
            asking.join(20)
            assert got[0].body == b"late"
            assert proxy.process.wait(20) == 0
            assert ended(pids)
            assert "started again" not in proxy.console()


@linux
def test_a_second_signal_ends_it_at_once(mesh, tmp_path):
    with Upstream(lambda request, connection: connection.recv(1) and None) as upstream:
        revision = mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        proxy = Workers(tmp_path, mesh, options={"mesh_drain": "60s"})
        with running(proxy), socket.create_connection(("127.0.0.1", proxy.port)) as client:
            pids = proxy.all_there(mesh)
            eventually(lambda: all(node.revision == revision for node in mesh.nodes().values()))
            client.sendall(b"GET http://up/ HTTP/1.1\r\nHost: up\r\n\r\n")
            eventually(lambda: upstream.requests)
            proxy.signal(signal.SIGTERM)
            eventually(lambda: len(proxy.pids) == 1)
            proxy.signal(signal.SIGTERM)
            assert proxy.process.wait(10) == 0
            assert ended(pids)


@linux
def test_no_worker_outlives_a_killed_supervisor(mesh, tmp_path):
    proxy = Workers(tmp_path, mesh).start()
    pids = proxy.all_there(mesh)
    proxy.kill()
    assert ended(pids)
    # They went in good order.
    eventually(lambda: mesh.nodes() == {})


@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_another_program_holds(mesh, tmp_path, shares):
    """One line, exit 1, nothing is started again; even if that program would share it."""
    with socket.create_server(("127.0.0.1", free_port()), reuse_port=shares) as held:
        port = held.getsockname()[1]
        proxy = Workers(tmp_path, mesh, 3, port=port).launch()
        assert proxy.process.wait(40) == 1
        said = proxy.console().strip().splitlines()
        assert len(said) == 1, said
        assert f"127.0.0.1:{port}" in said[0]
        assert "in use" in said[0]


def test_what_cannot_start_says_so_once(mesh, tmp_path):
    proxy = Workers(tmp_path, mesh, 4, options={"mesh_redis": "nonsense://"}).launch()
    assert proxy.process.wait(40) == 1
    said = [line for line in proxy.console().splitlines() if "mesh_redis" in line]
    assert len(said) == 1, proxy.console()
    assert "Traceback" not in proxy.console()


@linux
def test_lines_of_several_workers_stay_whole_in_a_pipe(mesh, tmp_path):
    """Whoever reads the log of a container reads a pipe that all of them write to."""
    with Upstream() as upstream:
        revision = mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        proxy = Workers(tmp_path, mesh, options={"mesh_access_log": "-"})
        command = [*proxy.command]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path, env=proxy.environment)
        proxy.process = process  # type: ignore[assignment]
        try:
            proxy.all_there(mesh)
            eventually(lambda: all(node.revision == revision for node in mesh.nodes().values()))

            def ask():
                for _ in range(25):
                    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                        path = b"x" * 500
                        one = b"GET http://up/%b HTTP/1.1\r\nHost: up\r\n\r\n" % path
                        client.sendall(one * 20)
                        got = b""
                        while got.count(b"HTTP/1.1 200") < 20 or not got.endswith(b"ok"):
                            got += client.recv(65536)

            asking = [threading.Thread(target=ask) for _ in range(4)]
            for each in asking:
                each.start()
            for each in asking:
                each.join(30)
            # A reader that is late: the pipe is full by now.
            time.sleep(0.2)
            lines = []
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(json.loads(line))
                if len(lines) == 2000:
                    break
            assert {line["node"] for line in lines} == {"w-1", "w-2"}
        finally:
            proxy.stop()
            if process.stdout is not None:
                process.stdout.close()


# In a worker


def test_ready_is_told_once(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setenv("MITMESH_READY", str(writing))
    assert workers.is_first()
    workers.tell_ready()
    assert os.read(reading, 10) == b"."
    assert not workers.is_first()
    workers.tell_ready()
    assert os.read(reading, 10) == b""
    os.close(reading)


@linux
def test_a_worker_whose_supervisor_has_ended_already_does_not_start(monkeypatch):
    monkeypatch.setenv("MITMESH_SUPERVISOR", "1")
    code = "from addons.workers import end_with_supervisor; end_with_supervisor(); print('runs')"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert (found.returncode, found.stdout) == (1, "")
    assert "the supervisor has ended" in found.stderr
