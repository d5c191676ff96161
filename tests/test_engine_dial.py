"""Opening connections: names, several addresses, TLS, and plain words when it fails."""

import asyncio
import errno
import socket
import ssl

import pytest

from addons.engine import dial as dialling
from addons.engine.client import default_tls
from addons.engine.errors import UpstreamError
from addons.engine.origin import Origin
from addons.engine.pool import PoolStats
from tests.conftest import free_port
from tests.engine_certificates import Authority
from tests.engine_peers import GET, HELLO, OK, answering, client, head_of, on_both_loops, peer


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


def trusting(authority):
    def context(origin):
        made = default_tls(origin)
        made.load_verify_locations(cadata=authority.trust())
        return made

    return context


async def fails(made, origin, **options) -> str:
    with pytest.raises(UpstreamError) as caught:
        await made.send(origin, GET, method=b"GET", **options)
    assert (caught.value.kind, caught.value.nothing_sent) == ("connect-failure", True)
    assert str(caught.value) == f"connect-failure: {caught.value.detail}"
    assert made.stats() == {}
    return caught.value.detail


@on_both_loops
async def test_a_closed_port():
    async with client() as made:
        assert await fails(made, Origin("127.0.0.1", free_port())) == "connection refused"


@pytest.mark.parametrize("host", ["no-such-name.invalid", "x" * 64 + ".invalid", "a..b", ""])
@on_both_loops
async def test_an_unknown_name(host):
    async with client() as made:
        assert await fails(made, Origin(host, 80)) == f"name not known: {host}"


@on_both_loops
async def test_a_name():
    async with peer(answering(HELLO)) as upstream, client() as made:
        answer = await made.send(Origin("localhost", upstream.origin.port), GET, method=b"GET")
        assert answer.peer == ("127.0.0.1", upstream.origin.port)


class Full:
    """A port of 127.0.0.2 that never answers: its queue of connections is full."""

    def __init__(self, port: int = 0) -> None:
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.2", port))
        self.listener.listen(0)
        self.filling = []
        for _ in range(3):
            connecting = socket.socket()
            connecting.setblocking(False)
            assert connecting.connect_ex(self.listener.getsockname()) in (0, errno.EINPROGRESS)
            self.filling.append(connecting)

    def __enter__(self):
        return self.listener.getsockname()[1]

    def __exit__(self, *_):
        for each in (*self.filling, self.listener):
            each.close()


@on_both_loops
async def test_an_address_that_does_not_answer():
    with Full() as port:
        async with client() as made:
            assert (
                await fails(made, Origin("127.0.0.2", port), connect_timeout=0.05) == "timed out after 0.05 s"
            )


def resolve_to(monkeypatch, *addresses):
    async def resolved(origin):
        return list(addresses)

    monkeypatch.setattr(dialling, "_addresses", resolved)


@on_both_loops
async def test_another_address_is_tried_beside_one_that_does_not_answer(monkeypatch):
    async with peer(answering(HELLO)) as upstream, client() as made:
        with Full(upstream.origin.port):
            resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
            monkeypatch.setattr(dialling, "STAGGER", 0.01)
            answer = await made.send(Origin("both", upstream.origin.port), GET, method=b"GET")
            assert answer.peer[0] == "127.0.0.1"
            assert answer.body == b"hello"
            assert list(made.stats().values()) == [PoolStats(1, 1, 0)]


@on_both_loops
async def test_another_address_is_tried_at_once_after_one_that_refuses(monkeypatch):
    async with peer(answering(HELLO)) as upstream, client() as made:
        resolve_to(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
        monkeypatch.setattr(dialling, "STAGGER", 1000)
        answer = await made.send(Origin("three", upstream.origin.port), GET, method=b"GET")
        assert answer.peer[0] == "127.0.0.1"


@on_both_loops
async def test_all_addresses_refuse(monkeypatch):
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.3")
    async with client() as made:
        assert await fails(made, Origin("both", free_port())) == "connection refused"


@on_both_loops
async def test_of_two_that_connect_one_is_kept(monkeypatch):
    async with peer(answering(HELLO)) as upstream, client() as made:
        resolve_to(monkeypatch, "127.0.0.1", "127.0.0.1", "127.0.0.1")
        monkeypatch.setattr(dialling, "STAGGER", 0)
        for _ in range(5):
            await made.send(
                Origin("thrice", upstream.origin.port), GET, method=b"GET", connection_reuse=False
            )
        await upstream.all_closed()
        assert made.stats() == {}


@pytest.mark.parametrize(
    ("found", "order"),
    [
        (["127.0.0.1"], ["127.0.0.1"]),
        (["::1", "::2", "127.0.0.1"], ["::1", "127.0.0.1", "::2"]),
        (["127.0.0.1", "::1", "127.0.0.2", "127.0.0.1"], ["127.0.0.1", "::1", "127.0.0.2"]),
    ],
)
async def test_families_take_turns(monkeypatch, found, order):
    def resolved(*_, **__):
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
            for address in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    assert await dialling._addresses(Origin("name", 80)) == order


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%eth0"])
async def test_an_address_needs_no_resolver(host):
    assert await dialling._addresses(Origin(host, 80)) == [host]


# TLS


def tls_origin(upstream, server_name="", host="127.0.0.1"):
    return Origin(host, upstream.origin.port, True, server_name)


@pytest.mark.parametrize("server_name", ["reviews.example", ""])
@on_both_loops
async def test_tls_with_a_trusted_certificate(authority, server_name):
    context = authority.server("reviews.example", "127.0.0.1")
    asked = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with peer(answering(HELLO), context) as upstream, client(tls_context=trusting(authority)) as made:
        for _ in range(2):
            answer = await made.send(tls_origin(upstream, server_name), GET, method=b"GET")
            assert answer.body == b"hello"
        assert upstream.connections == 1
        assert asked == [server_name or None]
        tls = answer.connection.transport.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"
        made.close_idle()
        await upstream.all_closed()


@pytest.mark.parametrize(
    ("names", "days", "trust", "why"),
    [
        (["other.example"], 1, True, "certificate verify failed: Hostname mismatch"),
        (["reviews.example"], -1, True, "certificate verify failed: certificate has expired"),
        (["reviews.example"], 1, False, "certificate verify failed: unable to get local issuer certificate"),
    ],
)
@on_both_loops
async def test_a_certificate_that_does_not_hold(authority, names, days, trust, why):
    options = {"tls_context": trusting(authority)} if trust else {}
    async with (
        peer(answering(HELLO), authority.server(*names, days=days)) as upstream,
        client(**options) as made,
    ):
        assert (await fails(made, tls_origin(upstream, "reviews.example"))).startswith(why)


@on_both_loops
async def test_a_peer_that_speaks_no_tls(authority):
    async def handler(reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with peer(handler) as upstream, client(tls_context=trusting(authority)) as made:
        assert "wrong version number" in await fails(made, tls_origin(upstream))


@on_both_loops
async def test_a_peer_that_closes_in_the_handshake(authority):
    async def handler(reader, writer):
        await reader.read(1)

    async with peer(handler) as upstream, client(tls_context=trusting(authority)) as made:
        assert await fails(made, tls_origin(upstream)) in (
            "closed by the upstream while connecting",
            "tls: unexpected eof while reading",
        )


@on_both_loops
async def test_the_connect_timeout_includes_the_handshake(authority):
    async def handler(reader, writer):
        await reader.read()

    async with peer(handler) as upstream, client(tls_context=trusting(authority)) as made:
        detail = await fails(made, tls_origin(upstream), connect_timeout=0.05)
        assert detail == "timed out after 0.05 s"
        await upstream.all_closed()


@on_both_loops
async def test_a_tls_context_that_cannot_be_made():
    def context(origin):
        raise OSError("no such file: ca.pem")

    async with client(tls_context=context) as made:
        assert "no such file: ca.pem" in await fails(made, Origin("127.0.0.1", 1, tls=True))


@on_both_loops
async def test_an_answer_over_tls_ends_with_the_connection_only_if_the_peer_says_so(authority):
    cut = asyncio.Event()

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(OK + b"\r\nhello")
        await writer.drain()
        if cut.is_set():
            await reader.read(1)
            writer.transport.abort()

    context = authority.server("127.0.0.1")
    async with peer(handler, context) as upstream, client(tls_context=trusting(authority)) as made:
        answer = await made.send(tls_origin(upstream), GET, method=b"GET", buffer=100)
        assert (answer.complete, answer.body) == (True, b"hello")
        cut.set()
        call = made.send(tls_origin(upstream), GET, None, method=b"GET")
        answer = await call
        call.write(b"x")
        with pytest.raises(UpstreamError) as caught:
            while await answer.read():
                pass
        assert caught.value.kind == "reset"


def test_the_default_context_verifies():
    context = default_tls(Origin("x", 1, tls=True))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
