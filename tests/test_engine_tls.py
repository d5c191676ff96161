"""TLS in the engine: what passes between two of its ends, in what pieces, and how it ends. On both event loops."""

import asyncio
import contextlib
import ssl

import pytest

from addons.engine.client import Client
from addons.engine.errors import UpstreamError
from addons.engine.origin import Origin
from addons.engine.tls import Security, TlsLayer, Untrusted
from tests.engine_certificates import Authority
from tests.engine_peers import GET, HELLO, answering, on_both_loops, peer

WITHIN = 10.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


def agree(tls: ssl.SSLObject) -> None:
    """Whoever has a certificate of the authority."""


def refuse(tls: ssl.SSLObject) -> None:
    raise Untrusted("not the one that was meant")


def serving(authority, verify=agree) -> Security:
    return Security(authority.server("localhost"), verify, server_side=True)


def calling(authority, verify=agree, **more) -> Security:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.trust())
    return Security(context, verify, server_side=False, **more)


class Collector(asyncio.Protocol):
    """Keeps all that comes; `reply` is sent for each piece."""

    def __init__(self, reply: bytes = b"") -> None:
        self.received = bytearray()
        self.pieces = 0
        self.reply = reply
        self.transport: asyncio.Transport | None = None
        self.paused = 0
        self.last_words: bytes | None = None
        self.stays = False
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[Exception | None] = loop.create_future()
        self._changed: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.pieces += 1
        if self.reply and self.transport is not None:
            self.transport.write(self.reply)
        if not self._changed.done():
            self._changed.set_result(None)

    def eof_received(self) -> bool:
        if self.transport is not None:
            # As Link.cut_short asks.
            with contextlib.suppress(ssl.SSLEOFError):
                self.last_words = self.transport.get_extra_info("ssl_object").read(1)
        if not self.ended.done():
            self.ended.set_result(None)
        return self.stays

    def pause_writing(self) -> None:
        self.paused += 1

    def connection_lost(self, error) -> None:
        if not self.lost.done():
            self.lost.set_result(error)

    async def until(self, size: int) -> bytes:
        async with asyncio.timeout(WITHIN):
            while len(self.received) < size:
                self._changed = asyncio.get_running_loop().create_future()
                await self._changed
        return bytes(self.received)


class End:
    """One side of a connection: its layer, the protocol within, and what was told of the handshake."""

    def __init__(self, security: Security, protocol: Collector) -> None:
        self.protocol = protocol
        self.told: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.layer = TlsLayer(security, protocol, self._tell)

    def _tell(self, error: Exception | None) -> None:
        assert not self.told.done(), "told twice"
        if error is None:
            self.protocol.connection_made(self.layer)
        self.told.set_result(error)


@contextlib.asynccontextmanager
async def joined(server: Security, client: Security, reply: bytes = b""):
    """A server's and a client's end on a real connection, once both know how the handshake went."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[End] = loop.create_future()

    def accept() -> asyncio.Protocol:
        end = End(server, Collector(reply))
        accepted.set_result(end)
        return end.layer

    listening = await loop.create_server(accept, "127.0.0.1", 0)
    near = End(client, Collector())
    port = listening.sockets[0].getsockname()[1]
    await loop.create_connection(lambda: near.layer, "127.0.0.1", port)
    far = await accepted
    async with asyncio.timeout(WITHIN):
        await asyncio.wait([near.told, far.told])
    try:
        yield near, far
    finally:
        near.layer.abort()
        far.layer.abort()
        listening.close()


@pytest.mark.parametrize("size", [1, 16384, 16385, 3_000_000])
@on_both_loops
async def test_bytes_arrive_as_they_were_sent(authority, size):
    async with joined(serving(authority), calling(authority)) as (near, far):
        assert (near.told.result(), far.told.result()) == (None, None)
        sent = (bytes(range(256)) * (size // 256 + 1))[:size]
        near.layer.writelines([sent[:7], sent[7:]])
        assert await far.protocol.until(size) == sent
        far.layer.write(b"thanks")
        assert await near.protocol.until(6) == b"thanks"
        assert near.layer.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert near.layer.get_extra_info("peername")[0] == "127.0.0.1"


@on_both_loops
async def test_who_is_held_back_gets_the_rest_later(authority):
    async with joined(serving(authority), calling(authority)) as (near, far):
        far.layer.pause_reading()
        assert not far.layer.is_reading()
        near.layer.write(b"x" * 100_000)
        await asyncio.sleep(0.05)
        assert not far.protocol.received
        far.layer.resume_reading()
        assert await far.protocol.until(100_000) == b"x" * 100_000


@on_both_loops
async def test_a_writer_is_told_when_the_other_side_takes_no_more(authority):
    async with joined(serving(authority), calling(authority)) as (near, far):
        near.layer.set_write_buffer_limits(64 * 1024, 16 * 1024)
        far.layer.pause_reading()
        sent = 0
        while not near.protocol.paused and sent < 64_000_000:
            near.layer.write(b"x" * 65536)
            sent += 65536
            await asyncio.sleep(0)
        assert near.protocol.paused
        assert near.layer.get_write_buffer_size() > 64 * 1024
        far.layer.resume_reading()
        assert len(await far.protocol.until(sent)) == sent


@on_both_loops
async def test_a_goodbye_is_told_from_a_connection_that_was_cut(authority):
    for goodbye in (True, False):
        async with joined(serving(authority), calling(authority)) as (near, far):
            near.layer.write(b"all")
            await far.protocol.until(3)
            if goodbye:
                near.layer.close()
            else:
                near.layer._raw.close()
            async with asyncio.timeout(WITHIN):
                await far.protocol.ended
            assert far.protocol.last_words == (b"" if goodbye else None)
            async with asyncio.timeout(WITHIN):
                await far.protocol.lost


@pytest.mark.parametrize("held", [False, True])
@on_both_loops
async def test_after_the_end_of_its_own_side_it_still_hears_the_other(authority, held):
    async with joined(serving(authority), calling(authority)) as (near, far):
        # As half of a pipe.
        near.protocol.stays = True
        if held:
            far.layer.pause_reading()
            near.layer.write(b"before ")
            await asyncio.sleep(0.05)
        far.layer.write(b"bye")
        far.layer.write_eof()
        far.layer.write(b"never sent")
        if held:
            far.layer.resume_reading()
        assert await near.protocol.until(3) == b"bye"
        async with asyncio.timeout(WITHIN):
            await near.protocol.ended
        assert bytes(near.protocol.received) == b"bye"
        assert near.protocol.last_words == b""
        said = b"before " * held + b"last words" * 10_000
        near.layer.write(b"last words" * 10_000)
        assert await far.protocol.until(len(said)) == said
        near.layer.close()
        async with asyncio.timeout(WITHIN):
            await far.protocol.lost


@on_both_loops
async def test_before_the_peer_is_trusted_not_a_byte_passes(authority):
    async with joined(serving(authority, refuse), calling(authority)) as (near, far):
        error = far.told.result()
        assert isinstance(error, Untrusted)
        near.layer.write(b"too early")
        async with asyncio.timeout(WITHIN):
            await near.protocol.lost
        assert not far.protocol.received
        assert far.layer.is_closing()


@on_both_loops
async def test_who_does_not_trust_the_server_sends_nothing(authority, tmp_path_factory):
    other = Authority(tmp_path_factory.mktemp("other"))
    seen: list[Exception] = []
    async with joined(serving(authority), calling(other, refused=seen.append)) as (near, far):
        assert isinstance(near.told.result(), ssl.SSLCertVerificationError)
        assert seen == [near.told.result()]
        error = far.told.result()
        # Told by an alert.
        assert error is not None
        assert "ALERT_UNKNOWN_CA" in str(error)
        assert not far.protocol.received


@on_both_loops
async def test_a_peer_that_leaves_in_the_middle_of_the_handshake(authority):
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[End] = loop.create_future()

    def accept() -> asyncio.Protocol:
        end = End(serving(authority), Collector())
        accepted.set_result(end)
        return end.layer

    listening = await loop.create_server(accept, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", listening.sockets[0].getsockname()[1])
    writer.write(b"\x16\x03\x01")
    await writer.drain()
    end = await accepted
    writer.close()
    async with asyncio.timeout(WITHIN):
        error = await end.told
    assert isinstance(error, OSError)
    listening.close()


@on_both_loops
async def test_garbage_after_the_handshake_ends_the_connection(authority):
    async with joined(serving(authority), calling(authority)) as (near, far):
        near.layer._raw.write(b"no record of TLS" * 10)
        async with asyncio.timeout(WITHIN):
            error = await far.protocol.lost
        assert "TLS" in str(error)
        assert not far.protocol.received


@on_both_loops
async def test_a_session_is_kept_and_resumed(authority):
    server = serving(authority)
    sessions: list[ssl.SSLSession] = []
    first = calling(authority, keep=sessions.append)
    async with joined(server, first, reply=b"x") as (near, _):
        near.layer.write(b"x")
        await near.protocol.until(1)
        assert not near.layer.tls.session_reused
    (session,) = sessions
    again = Security(first.context, agree, server_side=False, session=session)
    async with joined(server, again, reply=b"x") as (near, far):
        near.layer.write(b"x")
        await near.protocol.until(1)
        assert near.layer.tls.session_reused
        assert far.layer.tls.session_reused


@on_both_loops
async def test_a_server_that_refuses_the_client_in_tls_1_3_is_told_of(authority):
    server = serving(authority)
    server.context.verify_mode = ssl.CERT_REQUIRED
    seen: list[Exception] = []
    client = calling(authority, keep=lambda session: None, refused=seen.append)
    async with joined(server, client) as (near, far):
        assert near.told.result() is None
        assert isinstance(far.told.result(), ssl.SSLError)
        async with asyncio.timeout(WITHIN):
            error = await near.protocol.lost
        assert "alert certificate required" in str(error)
        assert len(seen) == 1


# By the client


@on_both_loops
async def test_the_client_verifies_whom_it_has_reached_and_keeps_the_connection(authority):
    verified: list[str] = []
    security = calling(authority, lambda tls: verified.append(tls.version() or ""))
    async with peer(answering(HELLO), tls=authority.server("127.0.0.1")) as upstream:
        client = Client(tls_context=lambda origin: security)
        origin = Origin("127.0.0.1", upstream.origin.port, True, "", "spiffe://mesh/service/x", 1)
        for _ in range(3):
            answer = await client.send(origin, GET, method=b"GET")
            assert answer.status == 200
        assert verified == ["TLSv1.3"]
        client.close()


@on_both_loops
async def test_whom_it_does_not_trust_it_sends_nothing(authority):
    async with peer(answering(HELLO), tls=authority.server("127.0.0.1")) as upstream:
        client = Client(tls_context=lambda origin: calling(authority, refuse))
        origin = Origin("127.0.0.1", upstream.origin.port, True, "", "spiffe://mesh/service/x", 1)
        with pytest.raises(UpstreamError, match="not the one that was meant") as caught:
            await client.send(origin, GET, method=b"GET")
        assert (caught.value.kind, caught.value.nothing_sent) == ("connect-failure", True)
        client.close()


@on_both_loops
async def test_an_origin_with_a_peer_is_never_reached_by_the_systems_trust(authority):
    async with peer(answering(HELLO), tls=authority.server("127.0.0.1")) as upstream:
        client = Client()
        origin = Origin("127.0.0.1", upstream.origin.port, True, "", "spiffe://mesh/service/x")
        with pytest.raises(UpstreamError, match="nobody here can verify that a certificate is of spiffe"):
            await client.send(origin, GET, method=b"GET")
        client.close()
