"""HTTP/2 requests that must not reach an upstream: fields that would be something else in HTTP/1.1, refused bodies."""

import socket
import ssl

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest

from tests.certificates import Authority
from tests.mesh_process import World
from tests.upstream import Upstream, saying

BAD = {
    "line break in a value": {b"a": b"b\r\nx-evil: 1"},
    "request in a value": {b"a": b"b\r\n\r\nGET /evil HTTP/1.1\r\nhost: up\r\n\r\n"},
    "line feed in a value": {b"a": b"b\nx-evil: 1"},
    "carriage return in a value": {b"a": b"b\rc"},
    "NUL in a value": {b"a": b"b\0c"},
    "line break in a name": {b"a: b\r\nx-evil": b"1"},
    "colon in a name": {b"a: b": b"1"},
    "space in a name": {b"a b": b"1"},
    "request in the path": {b":path": b"/a HTTP/1.1\r\nhost: up\r\n\r\nGET /evil"},
    "space in the path": {b":path": b"/a HTTP/1.1"},
    "fragment": {b":path": b"/a#b"},
    "no path": {b":path": b"a"},
    "line break in the method": {b":method": b"GET /evil HTTP/1.1\r\na:"},
    "line break in the authority": {b":authority": b"up\r\nx-evil: 1"},
    "line break in the host": {b"host": b"up\r\nx-evil: 1"},
    "another host than the authority": {b"host": b"other"},
    "coding": {b"transfer-encoding": b"chunked"},
    "length with a sign": {b"content-length": b"+3"},
    "upgrade": {b"connection": b"upgrade", b"upgrade": b"tea"},
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def world(tmp_path_factory, authority):
    environment = {"SSL_CERT_FILE": str(authority.file)}
    options = {"stream_large_bodies": "1k"}
    with World(tmp_path_factory.mktemp("http2"), environment=environment, options=options) as world:
        yield world


@pytest.fixture(scope="module")
def upstream(world, authority):
    with Upstream(saying(), authority.server("up")) as upstream:
        world.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        yield upstream


def ask(port: int, changes: dict[bytes, bytes], body: bytes, target: str = "up:443") -> int | None:
    """The status of one HTTP/2 request through a tunnel, sent as it is; None: broken off."""
    fields = {
        b":method": b"POST" if body else b"GET",
        b":scheme": b"https",
        b":authority": b"up",
        b":path": b"/a",
    }
    settings = h2.config.H2Configuration(
        header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    trusting = ssl._create_unverified_context()
    trusting.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
        assert plain.recv(1000).startswith(b"HTTP/1.1 200 ")
        with trusting.wrap_socket(plain, server_hostname="up") as client:
            connection = h2.connection.H2Connection(settings)
            connection.initiate_connection()
            connection.send_headers(1, list((fields | changes).items()), end_stream=not body)
            if body:
                connection.send_data(1, body, end_stream=True)
            client.sendall(connection.data_to_send())
            while data := client.recv(65536):
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        return int(dict(event.headers)[b":status"])
                    if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                        return None
                client.sendall(connection.data_to_send())
    return None


@pytest.mark.parametrize("body", [b"", b"abc"], ids=["GET", "POST"])
@pytest.mark.parametrize("name", BAD)
def test_refused(world, upstream, name, body):
    """Some by mitmproxy's HTTP/2, which ends the connection, the others by the mesh."""
    upstream.requests.clear()
    assert ask(world.proxy.port, BAD[name], body) in (400, None)
    assert ask(world.proxy.port, {b":path": b"/good"}, body) == 200
    assert [request.target for request in upstream.requests] == ["/good"]


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_body_is_not_sent_before_its_request_is_judged(world, authority, method):
    """mitmproxy would, as soon as more has come than stream_large_bodies."""
    with Upstream(saying(), authority.server("127.0.0.1")) as trap:
        world.serve(
            f'hosts: ["{trap.address}"]\nauthorization: {{deny: [{{methods: [GET, POST]}}]}}', "127.0.0.1:1"
        )
        changes = {b":method": method, b":authority": trap.address.encode()}
        assert ask(world.proxy.port, changes, b"x" * 10_000, trap.address) == 403
        assert trap.connections == 0
    assert "stream_large_bodies: ignored" in world.proxy.console()
