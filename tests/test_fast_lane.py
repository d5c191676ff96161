"""The takeover: what begins as HTTP/1.1 is the engine's, all else mitmproxy's, to the byte; mitmdump, mitmweb, mitmesh proxy."""

import asyncio
import http.client
import json
import socket
import ssl
import sys
import time
from pathlib import Path

import mitmproxy.version
import pytest
from mitmproxy.proxy import mode_specs
from wsproto.events import TextMessage

from addons.engine.client_link import HEAD_TIMEOUT, IDLE_TIMEOUT
from addons.fast_lane import METHODS, _peek, begins_http1, is_for_the_engine
from tests.conftest import Valkey, free_port
from tests.engine_peers import leap, on_asyncio, settled
from tests.mesh_process import MESH, Proxy, confdir, eventually, get, running
from tests.test_end_to_end_streams import WebSocket, websocket_echo
from tests.upstream import Upstream, answer, saying

SCRIPT = """
import asyncio
import json
from pathlib import Path

class Events:
    def load(self, loader):
        loader.add_option("events", str, "", "")

    def _note(self, *words):
        from mitmproxy import ctx
        with Path(ctx.options.events).open("a") as file:
            file.write(json.dumps(words) + "\\n")

    def client_connected(self, client):
        self._note("connected", client.id)

    def client_disconnected(self, client):
        self._note("disconnected", client.id, client.error, client.state.name, client.timestamp_end is not None)

    def response(self, flow):
        if flow.request.path == "/again" and not flow.is_replay:
            from mitmproxy import ctx
            asyncio.get_running_loop().call_later(0.1, ctx.master.commands.call, "replay.client", [flow])

    def request(self, flow):
        self._note("request", flow.client_conn.id, flow.request.path, "mesh_carrier" in vars(flow))

addons = [Events()]
"""


# What the first bytes tell


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        (b"", None),
        (b"G", None),
        (b"GET", None),
        (b"GET ", True),
        (b"GET / HTTP/1.1\r\n", True),
        (b"\r\n\r\nGET ", True),
        (b"\r\n" * 32 + b"GET ", True),
        (b"\r\n" * 33, False),
        (b"\r\n", None),
        (b"M-SEARCH ", True),
        (b"MKACTIVITY", None),
        (b"MKACTIVITYX", False),
        (b"CONNECT ", False),
        (b"CO", None),
        (b"CON", False),
        (b"PRI * HTTP/2.0", False),
        (b"PRI", False),
        (b"PR", None),
        (b"\x16\x03\x01", False),
        (b"\x16", None),
        (b"\x16\x03", None),
        (b"get ", False),
        (b"GETS ", False),
        (b"GET\t", False),
        (b"BREW ", False),
        (b" GET ", False),
        (b"\0", False),
        (b"SSH-2.0", False),
    ],
)
def test_first_bytes(first, verdict):
    assert begins_http1(first) is verdict


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_known_as_soon_as_it_is_whole(method):
    for cut in range(len(method) + 1):
        assert begins_http1(method[:cut]) is None
    assert begins_http1(method + b" ") is True


@pytest.mark.parametrize(
    ("mode", "ours"),
    [
        ("regular", True),
        ("transparent", True),
        ("reverse:http://x", True),
        ("reverse:https://x", True),
        ("reverse:tcp://x:1", False),
        ("reverse:tls://x:1", False),
        ("reverse:dns://x", False),
        ("upstream:http://x", False),
        ("socks5", False),
    ],
)
def test_modes(mode, ours):
    assert is_for_the_engine(mode_specs.ProxyMode.parse(mode)) is ours


@on_asyncio
async def test_a_client_that_says_nothing_is_not_waited_for_for_ever():
    for said, limit in ((b"", IDLE_TIMEOUT), (b"GE", HEAD_TIMEOUT)):
        reader = asyncio.StreamReader()
        if said:
            reader.feed_data(said)
        peeking = asyncio.ensure_future(_peek(reader))
        await settled()
        leap(limit - 1)
        await settled()
        assert not peeking.done()
        leap(2)
        with pytest.raises(TimeoutError):
            await peeking


@pytest.mark.parametrize("said", [b"", b"GE", b"GET", b"\x16\x03"])
@on_asyncio
async def test_a_client_that_ends_early_is_mitmproxys_with_all_it_said(said):
    reader = asyncio.StreamReader()
    if said:
        reader.feed_data(said)
    reader.feed_eof()
    assert await _peek(reader) is False
    assert await reader.read(100) == said


# Real proxies


class Served:
    """A proxy with a script that notes events; `up` is an upstream's service."""

    def __init__(self, folder: Path, url: str, **options) -> None:
        from tests.mesh_process import Mesh

        folder.mkdir(parents=True)
        self.script = folder / "events.py"
        self.script.write_text(SCRIPT)
        self.notes = folder / "events.json"
        self.mesh = Mesh(url)
        own = {"events": str(self.notes), **options.pop("options", {})}
        self.proxy = Proxy(folder, url, scripts=[self.script], options=own, **options)
        self.port = self.proxy.port

    def events(self, kind: str) -> list[list]:
        if not self.notes.exists():
            return []
        return [words for words in map(json.loads, self.notes.read_text().splitlines()) if words[0] == kind]

    def connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def said(self, *parts: bytes, until: bytes = b"") -> bytes:
        """What is answered to these parts, each a packet of its own."""
        with self.connect() as client:
            for part in parts:
                if part:
                    client.sendall(part)
                    time.sleep(0.002)
            return read_until(client, until)


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Until it ends so, or with the connection."""
    got = b""
    while not (end and got.endswith(end)):
        try:
            data = client.recv(65536)
        except ConnectionError:
            break
        if not data:
            break
        got += data
    return got


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    server = Valkey(tmp_path_factory.mktemp("valkey")).start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as made:
        yield made


@pytest.fixture(scope="module", params=["mitmdump", "lean"])
def served(request, tmp_path_factory, valkey, upstream):
    made = Served(tmp_path_factory.mktemp("served") / "proxy", valkey.url, lean=request.param == "lean")
    made.mesh.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
    with running(made.proxy):
        made.proxy.in_force(made.mesh, made.mesh.stored().revision)
        yield made
    assert "Traceback" not in made.proxy.console()


@pytest.fixture(scope="module")
def plain(tmp_path_factory, valkey, served):
    """The same without the lane."""
    options = {"mesh_fastlane": "false"}
    made = Served(tmp_path_factory.mktemp("plain") / "proxy", valkey.url, options=options)
    with running(made.proxy):
        made.proxy.in_force(made.mesh, made.mesh.stored().revision)
        yield made


GET = b"GET /%b HTTP/1.1\r\nHost: up\r\nConnection: close\r\n\r\n"


def test_which_lane_serves(served, plain):
    """The option turns it off."""
    for name, made in (("served", served), ("plain", plain)):
        got = made.said(GET % name.encode())
        assert got.startswith(b"HTTP/1.1 200 ")
        assert got.endswith(b"ok")
        (note,) = [words for words in made.events("request") if words[2] == f"/{name}"]
        assert note[3] is (made is served)


def test_http1_split_anywhere(served):
    data = GET % b"split"
    for cut in range(1, len(data)):
        got = served.said(data[:cut], data[cut:])
        assert got.startswith(b"HTTP/1.1 200 "), (cut, got)
    assert served.said(*[data[i : i + 1] for i in range(len(data))]).endswith(b"ok")


def test_connect_split_anywhere(served, upstream):
    """A tunnel through mitmproxy's stack, with a plain request behind it in the same packet."""
    head = b"CONNECT up:80 HTTP/1.1\r\nHost: up:80\r\n\r\n"
    established = b"HTTP/1.1 200 Connection established\r\n\r\n"
    for cut in range(1, len(head)):
        with served.connect() as client:
            client.sendall(head[:cut])
            time.sleep(0.002)
            client.sendall(head[cut:])
            assert read_until(client, b"\r\n\r\n") == established, cut
            client.sendall(GET % b"tunnelled")
            got = read_until(client, b"")
            assert (got.startswith(b"HTTP/1.1 200 "), got.endswith(b"ok")) == (True, True), (cut, got)
    assert upstream.requests[-1].target == "/tunnelled"


def test_connect_behind_another_request(served):
    with served.connect() as client:
        client.sendall(b"GET /first HTTP/1.1\r\nHost: up\r\n\r\n")
        assert read_until(client, b"ok").startswith(b"HTTP/1.1 200 ")
        client.sendall(b"CONNECT up:80 HTTP/1.1\r\nHost: up:80\r\n\r\n")
        assert b" 200 Connection established\r\n\r\n" in read_until(client, b"\r\n\r\n")
        client.sendall(GET % b"then")
        assert read_until(client, b"").endswith(b"ok")


FOREIGN = {
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
    "an unknown method": b"BREW /brew HTTP/1.1\r\nHost: up\r\nConnection: close\r\n\r\n",
    "a method in small letters": b"get /small HTTP/1.1\r\nHost: up\r\nConnection: close\r\n\r\n",
    "no HTTP at all": b"\0\1\2\3 is no HTTP\r\n\r\n",
    "another protocol": b"SSH-2.0-x\r\n\r\n",
    "many empty lines": b"\r\n" * 50,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_ours_is_answered_as_without_the_lane(name, served, plain):
    data = FOREIGN[name]

    def tell(made, cut):
        with made.connect() as client:
            for part in (data[:cut], data[cut:]):
                client.sendall(part)
                time.sleep(0.002)
            if not data.rstrip():
                client.shutdown(socket.SHUT_WR)
            return read_until(client, b"")

    expected = without_ids(tell(plain, 0))
    for cut in range(min(len(data), 25)):
        assert without_ids(tell(served, cut)) == expected, cut


def without_ids(data: bytes) -> list[bytes]:
    return [
        line
        for line in data.split(b"\r\n")
        if not line.lower().startswith((b"date:", b"server:", b"x-request-id:"))
    ]


def test_tls_to_the_proxy_split_anywhere(served):
    """A client that speaks TLS to the port itself."""
    context = ssl.create_default_context(cafile=str(confdir() / "mitmproxy-ca-cert.pem"))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for cut in (*range(12), 50, 100, 200):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="up")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        with served.connect() as client:
            client.sendall(hello[:cut])
            time.sleep(0.002)
            client.sendall(hello[cut:])
            while True:
                incoming.write(client.recv(65536))
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    client.sendall(outgoing.read())
            tls.write(GET.replace(b"/", b"http://up/", 1) % b"secure")
            client.sendall(outgoing.read())
            got = b""
            while not got.endswith(b"ok"):
                try:
                    got += tls.read(65536)
                except ssl.SSLWantReadError:
                    data = client.recv(65536)
                    assert data, got
                    incoming.write(data)
            assert got.startswith(b"HTTP/1.1 200 "), cut


def test_clients_come_and_go_in_pairs(served):
    """Whoever serves them: each is greeted, and said goodbye to, once."""
    served.said(GET % b"one")
    with served.connect() as client:
        client.sendall(b"CONNECT up:80 HTTP/1.1\r\nHost: up:80\r\n\r\n")
        read_until(client, b"\r\n\r\n")
    with served.connect() as client:
        client.sendall(b"GET /first HTTP/1.1\r\nHost: up\r\n\r\n")
        read_until(client, b"ok")
        client.sendall(b"BREW /second HTTP/1.1\r\nHost: up\r\nConnection: close\r\n\r\n")
        read_until(client, b"ok")

    def pairs():
        came = [words[1] for words in served.events("connected")]
        went = [words[1] for words in served.events("disconnected")]
        return len(came) == len(set(came)) and sorted(came) == sorted(went) and came

    eventually(pairs)
    # An error of ours that made mitmproxy close is none of the client's.
    assert {words[2] for words in served.events("disconnected") if words[2]} <= {"served in the fast lane"}
    assert all(words[4] for words in served.events("disconnected"))


@pytest.mark.parametrize("later", [False, True])
def test_websockets_first_and_later(served, later):
    with Upstream(lambda request, connection: websocket_echo(request, connection) if request.header("upgrade") else answer(200, "ok")) as ws:  # fmt: skip
        revision = served.mesh.apply(f"service: ws\nendpoints: ['{ws.address}']\n")
        served.proxy.in_force(served.mesh, revision)
        if later:
            plain_connect = socket.create_connection

            def connect(*arguments, **options):
                made = plain_connect(*arguments, **options)
                made.sendall(b"GET /before HTTP/1.1\r\nHost: ws\r\n\r\n")
                assert read_until(made, b"ok").startswith(b"HTTP/1.1 200 ")
                return made

            socket.create_connection = connect
        try:
            peer = WebSocket(served.port, "ws", f"/ws-{later}")
        finally:
            if later:
                socket.create_connection = plain_connect
        assert peer.echo(TextMessage(data="hello")) == "hello"
        peer.close()
        assert served.proxy.line(f"/ws-{later}")["status"] == 101


def test_a_client_that_resets_at_once_leaves_no_trace(served):
    for part in (b"", b"G", b"GET / HTTP/1.1\r\n", b"CONN", b"\x16\x03"):
        for _ in range(5):
            client = served.connect()
            client.sendall(part)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
    assert served.said(GET % b"after").endswith(b"ok")
    assert "Addon error" not in served.proxy.console()


def test_a_flow_of_the_lane_is_replayed_by_mitmproxy(served, upstream):
    if "lean" in str(served.proxy.command):
        pytest.skip("mitmesh proxy replays nothing")
    before = len(upstream.requests)
    served.said(GET % b"again")
    eventually(lambda: len(upstream.requests) == before + 2)
    assert [request.target for request in upstream.requests[-2:]] == ["/again"] * 2
    eventually(
        lambda: len(served.events("request")) and served.events("request")[-1][2:] == ["/again", False]
    )


# mitmweb


def test_mitmweb_shows_what_the_lane_served(tmp_path, valkey):
    folder = tmp_path / "web"
    port, web = free_port(), free_port()
    password = [] if int(mitmproxy.version.VERSION.split(".")[0]) < 12 else ["--set", "web_password=pw"]
    command = [
        str(Path(sys.executable).with_name("mitmweb")),
        *("--mode", f"regular@{port}", "--listen-host", "127.0.0.1", "-s", str(MESH)),
        *("--set", "web_open_browser=false", "--set", f"web_port={web}", *password),
        *("--set", f"confdir={confdir()}", "--set", f"mesh_redis={valkey.url}", "--set", "mesh_access_log="),
        *("--set", f"mesh_node=web-{port}"),
    ]
    from tests.mesh_process import Mesh

    with Upstream(saying(200, "shown", content_type="text/plain")) as upstream:
        mesh = Mesh(valkey.url)
        revision = mesh.apply(f"service: web\nendpoints: ['{upstream.address}']\n")
        proxy = Proxy(folder, valkey.url, port=port, command=command, node=f"web-{port}")
        with running(proxy):
            proxy.in_force(mesh, revision)
            assert get(port, "http://web/page?a=b").body == b"shown"
            asked = http.client.HTTPConnection("127.0.0.1", web, timeout=20)

            def fetch(path):
                asked.request("GET", path, headers={"Authorization": "Bearer pw"})
                response = asked.getresponse()
                return response.status, response.read()

            status, body = fetch("/flows")
            assert status == 200, body
            (flow,) = json.loads(body)
            assert (flow["request"]["pretty_host"], flow["request"]["path"]) == ("web", "/page?a=b")
            assert (flow["response"]["status_code"], flow["response"]["contentLength"]) == (200, 5)
            assert flow["server_conn"]["peername"][1] == upstream.port
            assert flow["client_conn"]["id"]
            status, body = fetch(f"/flows/{flow['id']}/response/content.data")
            assert (status, body) == (200, b"shown")
        assert "Traceback" not in proxy.console(), proxy.console()
