"""The engine on the listening socket: who serves what, greetings, transparent clients, stopping; and mitmesh proxy itself."""

import asyncio
import contextlib
import signal
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from mitmproxy import platform
from mitmproxy.proxy import mode_specs

from addons import direct_connection
from addons.engine.client_link import HEAD_TIMEOUT, IDLE_TIMEOUT
from addons.engine.lane import Lane
from addons.listener import Listeners, _check_free, _free_port, _udp_alone
from tests.conftest import free_port
from tests.engine_peers import on_both_loops
from tests.engine_proxy import both, until, within
from tests.mesh_process import Mesh, Proxy, eventually, get, running
from tests.test_engine_lane import Hooks, saying
from tests.upstream import Upstream, answer

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
MB = 1024 * 1024


class Direct:
    """Listeners in front of a proxy's lane; what is handed over is told by `handed`."""

    def __init__(self, made, mode: str) -> None:
        self.listeners = Listeners(made.hooks, 0)
        self.handed: list[bytearray] = []
        self.instance = SimpleNamespace(mode=mode_specs.ProxyMode.parse(mode), handle_stream=self.handle)
        self.lane = made.lane
        self.port = 0

    async def handle(self, reader, writer) -> None:
        got = bytearray()
        self.handed.append(got)
        writer.write(b"handed over")
        while data := await reader.read(65536):
            got += data
        writer.close()

    async def connect(self, data: bytes = b""):
        from tests.engine_proxy import Raw

        raw = Raw(*await asyncio.open_connection("127.0.0.1", self.port))
        return raw.send(data) if data else raw


@contextlib.asynccontextmanager
async def direct(*addons, mode="regular@1", **options):
    async with both(*addons, **options) as (made, upstream):
        there = Direct(made, mode)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: direct_connection.DirectConnection(there.listeners, there.lane, there.instance, loop),
            "127.0.0.1",
            0,
        )
        there.port = server.sockets[0].getsockname()[1]
        try:
            yield there, upstream
        finally:
            server.close()
            await there.listeners.drain(0)


class Clients(Hooks):
    def __init__(self, connected=None) -> None:
        super().__init__()
        self.came: list = []
        self.went: list = []
        self._connected = connected

    def client_connected(self, client):
        self.came.append(client)
        return self._connected(client) if self._connected else None

    def client_disconnected(self, client):
        self.went.append(client)


@pytest.mark.parametrize("cut", range(1, 9))
@on_both_loops
async def test_a_connection_is_served_or_handed_over_whole(cut):
    clients = Clients()
    async with direct(clients) as (there, _):
        client = await there.connect(GET[:cut])
        await asyncio.sleep(0.005)
        client.send(GET[cut:])
        assert (await client.answer())[0] == 200
        for foreign in (
            b"CONNECT up:1 HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01hello",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"other\n",
        ):
            client = await there.connect(foreign[:cut])
            await asyncio.sleep(0.005)
            client.send(foreign[cut:])
            await client.expect(b"handed over")
            client.writer.write_eof()
            await until(lambda foreign=foreign: there.handed[-1] == foreign)
        # The others are mitmproxy's to greet.
        assert len(clients.came) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
@on_both_loops
async def test_clients_are_greeted_before_they_are_served(asynchronous):
    go = asyncio.Event()

    async def wait(client):
        await asyncio.wait_for(go.wait(), 10)

    clients = Clients(wait if asynchronous else None)
    async with direct(clients) as (there, _):
        client = await there.connect(GET + GET)
        await until(lambda: clients.came)
        (greeted,) = clients.came
        if asynchronous:
            await asyncio.sleep(0.02)
            assert clients.seen == []
            client.send(GET)
            go.set()
        assert (await client.answer())[0] == 200
        assert greeted.peername[0] == "127.0.0.1"
        assert greeted.sockname[1] == there.port
        assert greeted.proxy_mode is there.instance.mode
        assert greeted.connected
        assert clients.flows[0].client_conn is greeted
        client.close()
        await until(lambda: clients.went)
        assert clients.went == [greeted]
        assert (greeted.connected, greeted.timestamp_end is not None) == (False, True)


@on_both_loops
async def test_a_client_that_an_addon_refuses():
    def refuse(client):
        client.error = "not you"

    clients = Clients(refuse)
    async with direct(clients) as (there, upstream):
        client = await there.connect(GET)
        assert await client.rest() == b""
        await until(lambda: clients.went)
        assert clients.seen == []
        assert upstream.bytes == b""


@on_both_loops
async def test_a_client_that_leaves_while_it_is_greeted():
    go = asyncio.Event()
    clients = Clients(lambda client: go.wait())
    async with direct(clients) as (there, _):
        client = await there.connect(GET)
        await until(lambda: clients.came)
        client.reset()

        def swept():
            for each in list(there.listeners.connections):
                each.look(each.clock())
            return not there.listeners.connections

        await until(swept)
        (left,) = clients.came
        assert (left.connected, left.timestamp_end is not None) == (False, True)
        # As in mitmproxy, nobody hears goodbye before everybody has heard hello.
        assert clients.went == []
        go.set()
        await until(lambda: clients.went)
        await asyncio.sleep(0)
        assert clients.went == [left]


@on_both_loops
async def test_one_that_is_handed_over_later_is_said_goodbye_to():
    clients = Clients()
    async with direct(clients) as (there, _):
        client = await there.connect(GET)
        await client.answer()
        client.send(b"CONNECT up:80 HTTP/1.1\r\nHost: up:80\r\n\r\nmore")
        await client.expect(b"handed over")
        client.send(b" and more")
        client.writer.write_eof()
        await until(lambda: there.handed[-1] == b"CONNECT up:80 HTTP/1.1\r\nHost: up:80\r\n\r\nmore and more")
        assert clients.went == clients.came
        assert not there.listeners.connections


@pytest.mark.parametrize(("data", "limit"), [(b"", IDLE_TIMEOUT), (b"GE", HEAD_TIMEOUT)])
@on_both_loops
async def test_one_that_says_too_little_is_closed(data, limit):
    async with direct() as (there, _):
        client = await there.connect(data)
        await until(lambda: there.listeners.connections)
        (made,) = there.listeners.connections
        if data:
            await until(lambda: made._first == data)
        made.look(made.clock() + limit - 1)
        assert not made.lingering
        made.look(made.clock() + limit + 1)
        assert await client.rest() == b""


@on_both_loops
async def test_one_that_leaves_before_it_says_enough():
    clients = Clients()
    async with direct(clients) as (there, _):
        for data in (b"", b"GE"):
            client = await there.connect(data)
            await until(lambda: there.listeners.connections)
            client.close()
            await until(lambda: not there.listeners.connections)
        assert clients.came == clients.went == []


@on_both_loops
async def test_a_transparent_listener_knows_where_its_clients_wanted_to_go(monkeypatch):
    asked = []

    def original(found):
        asked.append(found)
        return ("10.0.0.7", 8443)

    monkeypatch.setattr(platform, "original_addr", original)
    hooks = Hooks()
    from addons.engine.destination import Destinations

    async with direct(hooks, mode="transparent@1") as (there, _):
        there.lane = Lane(there.listeners.hooks, Destinations(there.instance.mode, False))
        client = await there.connect(b"GET /x HTTP/1.1\r\nHost: nobody.example\r\n\r\n")
        await until(lambda: hooks.flows)
        (flow,) = hooks.flows
        assert (flow.request.data.host, flow.request.port, flow.request.host_header) == (
            "10.0.0.7",
            8443,
            "nobody.example",
        )
        assert flow.client_conn.sockname == ("10.0.0.7", 8443)
        assert len(asked) == 1
        client.reset()


@on_both_loops
async def test_a_transparent_client_from_nowhere_is_closed(monkeypatch, caplog):
    def original(found):
        raise OSError("not redirected")

    monkeypatch.setattr(platform, "original_addr", original)
    async with direct(mode="transparent@1") as (there, _):
        client = await there.connect(GET)
        assert await client.rest() == b""
        assert "not redirected" in caplog.text


# Stopping


@on_both_loops
async def test_a_stop_waits_for_what_runs_and_no_longer():
    clients = Clients()
    async with direct(clients, reply=lambda request, body: None if request.target == b"/slow" else OK) as (
        there,
        _,
    ):
        idle = await there.connect(GET)
        await idle.answer()
        slow = await there.connect(GET.replace(b"/ ", b"/slow "))
        await until(lambda: len(clients.flows) == 2)
        stopping = asyncio.ensure_future(there.listeners.drain(0.1))
        assert await idle.rest() == b""
        await asyncio.sleep(0.02)
        assert not stopping.done()
        await within(stopping)
        with contextlib.suppress(ConnectionError):
            assert await slow.rest() == b""
        assert clients.seen.count("error") == 1
        assert len(clients.went) == 2


@on_both_loops
async def test_a_stop_lets_a_request_finish():
    clients = Clients()
    async with direct(clients, reply=saying(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")) as (
        there,
        upstream,
    ):
        client = await there.connect(GET)
        await client.head()
        stopping = asyncio.ensure_future(there.listeners.drain(10))
        await asyncio.sleep(0.01)
        upstream.writers[0].write(b"lf")
        assert await client.rest() == b"half"
        client.close()
        await within(stopping)
        assert clients.seen[-1] == "response"


# Ports


def test_a_free_port_is_free():
    assert 1024 <= _free_port("127.0.0.1") < 65536
    assert 1024 <= _free_port("") < 65536


@on_both_loops
async def test_a_port_that_somebody_holds_is_not_free_even_if_it_is_shared():
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        held.listen()
        with pytest.raises(OSError, match="in use"):
            await _check_free("127.0.0.1", port)
    await _check_free("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port), reuse_port=True):
        pass


def test_udp_is_left_to_mitmproxy():
    instance = SimpleNamespace(mode=None, handle_stream=1, start_udp_based_server=2)
    alone = _udp_alone(instance)
    assert (alone.mode.transport_protocol, alone.handle_stream, alone.start_udp_based_server) == ("udp", 1, 2)


# mitmesh proxy


@pytest.fixture
def mesh(redis_url):
    return Mesh(redis_url)


def lean(tmp_path, mesh, **options) -> Proxy:
    return Proxy(tmp_path, mesh.url, lean=True, **options)


def test_several_listeners_of_several_kinds(mesh, tmp_path):
    """HTTP by the engine, others by mitmproxy; reverse:https on UDP, too."""
    ports = [free_port() for _ in range(5)]
    with Upstream() as upstream:
        revision = mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        modes = [
            f"regular@{ports[0]}",
            f"reverse:http://up@{ports[1]}",
            f"reverse:https://up@{ports[2]}",
            f"reverse:tcp://{upstream.address}@{ports[3]}",
            f"socks5@{ports[4]}",
        ]
        proxy = lean(tmp_path, mesh, port=ports[0], modes=modes)
        with running(proxy):
            proxy.in_force(mesh, revision)
            assert get(ports[0], "http://up/").body == b"ok"
            assert get(ports[1], "/").body == b"ok"
            # No policy for raw TCP: what is said is passed on as it is.
            assert (
                get(
                    ports[3],
                    "/",
                ).header("x-mesh-attempts")
                is None
            )
            with socket.create_connection(("127.0.0.1", ports[4]), timeout=10) as client:
                client.sendall(b"\5\1\0")
                assert client.recv(10) == b"\5\0"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                with pytest.raises(OSError, match="in use"):
                    udp.bind(("127.0.0.1", ports[2]))
            assert {
                address.rpartition(":")[2] for address in next(iter(mesh.nodes().values())).addresses
            } >= {str(port) for port in ports}


def test_a_taken_port_is_one_line_and_exit_1(mesh, tmp_path):
    with socket.create_server(("127.0.0.1", free_port())) as held:
        port = held.getsockname()[1]
        proxy = lean(tmp_path, mesh, port=port).launch()
        assert proxy.process.wait(30) == 1
        said = proxy.console().strip().splitlines()
        assert len(said) == 1, said
        assert f"127.0.0.1:{port}" in said[0]
        assert "address already in use" in said[0]


def can_connect(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_sigterm_lets_requests_finish_and_accepts_no_more(mesh, tmp_path):
    release = threading.Event()

    def slow(request, connection):
        release.wait(20)
        return answer(200, "late")

    with Upstream(slow) as upstream:
        revision = mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        proxy = lean(tmp_path, mesh, options={"mesh_drain": "20s"})
        with running(proxy):
            proxy.in_force(mesh, revision)
            got = []
            asking = threading.Thread(target=lambda: got.append(get(proxy.port, "http://up/slow")))
            asking.start()
            eventually(lambda: upstream.requests)
            proxy.signal(signal.SIGTERM)
            eventually(lambda: not can_connect(proxy.port))
            assert proxy.process.poll() is None
            release.set()
            asking.join(20)
            assert (got[0].status, got[0].body, got[0].header("connection")) == (200, b"late", "close")
            assert proxy.process.wait(20) == 0
            assert proxy.line("/slow")["status"] == 200


def test_what_stands_behind_the_last_answer_is_not_done(mesh, tmp_path):
    release = threading.Event()

    def slow(request, connection):
        release.wait(20)
        return answer(200, "late")

    with Upstream(slow) as upstream:
        revision = mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        proxy = lean(tmp_path, mesh, options={"mesh_drain": "20s"})
        with running(proxy), socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client:
            proxy.in_force(mesh, revision)
            client.sendall(GET * 3)
            eventually(lambda: upstream.requests)
            proxy.signal(signal.SIGTERM)
            eventually(lambda: not can_connect(proxy.port))
            release.set()
            said = b""
            while piece := client.recv(65536):
                said += piece
            assert said.count(b"HTTP/1.1 ") == said.lower().count(b"connection: close") == 1
            assert proxy.process.wait(20) == 0
            assert len(upstream.requests) == 1


def test_a_stop_waits_no_longer_than_it_is_told(mesh, tmp_path):
    with Upstream(lambda request, connection: connection.recv(1) and None) as upstream:
        revision = mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        proxy = lean(tmp_path, mesh, options={"mesh_drain": "300ms"})
        with running(proxy), socket.create_connection(("127.0.0.1", proxy.port)) as client:
            proxy.in_force(mesh, revision)
            client.sendall(GET.replace(b"/ ", b"/hang "))
            eventually(lambda: upstream.requests)
            start = time.monotonic()
            proxy.signal(signal.SIGTERM)
            assert proxy.process.wait(20) == 0
            assert 0.25 < time.monotonic() - start < 10
            assert proxy.line("/hang")["flags"] == "DC"


def test_a_drain_that_is_no_duration_is_one_line(mesh, tmp_path):
    proxy = lean(tmp_path, mesh, options={"mesh_drain": "soon"}).launch()
    assert proxy.process.wait(30) == 1
    assert [line for line in proxy.console().splitlines() if "mesh_drain" in line and "'soon'" in line]
    assert "Traceback" not in proxy.console()


def pour(size: int):
    """Sends so many bytes of body, and notes how far it came."""
    state = SimpleNamespace(sent=0)

    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        piece = b"x" * MB
        while state.sent < size:
            connection.sendall(piece)
            state.sent += len(piece)

    return reply, state


@pytest.mark.slow
def test_memory_stays_flat_whatever_passes_through(mesh, tmp_path):
    """200 MB down to a slow reader, then 200 MB up to a slow upstream."""
    size = 200 * MB
    reply, state = pour(size)

    def swallow(request, connection):
        return answer(200, str(len(request.body)))

    with Upstream(reply) as down, Upstream(swallow) as up:
        mesh.apply(f"service: down\nendpoints: ['{down.address}']\n")
        revision = mesh.apply(f"service: up\nendpoints: ['{up.address}']\n")
        proxy = lean(tmp_path, mesh)
        with running(proxy):
            proxy.in_force(mesh, revision)
            get(proxy.port, "http://up/")
            before = most = proxy.memory()
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as client:
                client.sendall(b"GET http://down/ HTTP/1.1\r\nHost: down\r\n\r\n")
                time.sleep(0.3)
                assert state.sent < 60 * MB
                got = 0
                while got < size:
                    got += len(client.recv(MB))
                    most = max(most, proxy.memory())
            assert most - before < 64 * MB
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as client:
                client.sendall(b"POST http://up/ HTTP/1.1\r\nHost: up\r\nContent-Length: %d\r\n\r\n" % size)
                for _ in range(size // MB):
                    client.sendall(b"x" * MB)
                    most = max(most, proxy.memory())
                assert client.recv(65536).endswith(b"%d" % size)
            assert most - before < 64 * MB
