"""TLS on a connection: for the socket's transport a protocol, for the protocol within a transport.

The event loops have one of their own. This one can be given bytes that were
read before it was clear that they are TLS, resumes sessions, tells the peer by
an alert why a handshake is refused, asks a `verify` of ours before the first
byte passes, and holds no buffer of 256 KiB for each connection.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from addons.engine.tls_transport import TlsTransport

READ_SIZE = 64 * 1024
_ALERT_SEEN = 1.0
"""Seconds that a refused peer has to read why; a reset would eat the alert."""


class Untrusted(Exception):
    """The peer is not who it has to be: one phrase that says why."""


@dataclass(frozen=True, slots=True)
class Security:
    """How one connection is made secure. verify: called after the handshake, raises Untrusted.

    session: one to resume. keep: is given the session that was made, to resume it later. TLS 1.3 makes it after the
    handshake, so it is called when the first byte has come. refused: told why a handshake failed that was not just left.
    """

    context: ssl.SSLContext
    verify: Callable[[ssl.SSLObject], None]
    server_side: bool
    session: ssl.SSLSession | None = None
    keep: Callable[[ssl.SSLSession], None] | None = None
    refused: Callable[[Exception], None] | None = None


class TlsLayer(asyncio.Protocol, TlsTransport):
    """`told` is called once: with None when the peer is known, and only from then on bytes pass; else with what was wrong.

    The protocol within is told connection_lost, but not connection_made: that is for whoever is `told`.
    """

    def __init__(
        self,
        security: Security,
        protocol: asyncio.BaseProtocol,
        told: Callable[[Exception | None], None],
    ) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = security.context.wrap_bio(
            incoming, outgoing, server_side=security.server_side, session=security.session
        )
        TlsTransport.__init__(self, tls, incoming, outgoing, protocol)
        self._loop = asyncio.get_running_loop()
        self._verify = security.verify
        self._keep = security.keep
        self._refused = security.refused
        self._told: Callable[[Exception | None], None] | None = told
        self._unwanted = self._ended = self._reading = False

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self.connected = True
        if self._unwanted:
            self._raw.abort()
            return
        if hasattr(transport, "max_size"):
            transport.max_size = READ_SIZE
        self._shake()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._incoming.write(data)
        if self._secure:
            self._read()
        else:
            self._shake()

    def eof_received(self) -> bool:
        self._incoming.write_eof()
        if not self._secure:
            self._settle(ConnectionResetError("the peer left during the handshake"))
            return False
        if self._held:
            return True
        self._end()
        return not self._closing

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._settle(error or ConnectionResetError("the peer left during the handshake"))
        if self._secure:
            self._protocol.connection_lost(error or self._error)

    def pause_writing(self) -> None:
        if self._secure:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._secure:
            self._protocol.resume_writing()

    # The handshake

    def _shake(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()
            self._refuse(error)
            return
        try:
            self._verify(self.tls)
        except Untrusted as error:
            self._refuse(error)
            return
        self._flush()
        self._secure = True
        self._settle(None)
        self._read()

    def _refuse(self, error: Exception) -> None:
        self._closing = True
        raw = self._raw
        if isinstance(error, Untrusted) or not raw.can_write_eof():
            raw.close()
        else:
            with contextlib.suppress(OSError):
                raw.write_eof()
            self._loop.call_later(_ALERT_SEEN, raw.abort)
        if self._refused is not None:
            self._refused(error)
        self._settle(error)

    def _settle(self, error: Exception | None) -> None:
        told, self._told = self._told, None
        if told is not None:
            told(error)

    # Towards the protocol within

    def _read(self) -> None:
        if self._reading:
            return
        self._reading = True
        read, incoming = self.tls.read, self._incoming
        try:
            while not self._held and not self._ended and not self._closing:
                data = read(READ_SIZE)
                if not data:
                    self._end()
                    break
                if self._keep is not None:
                    self._keep_session()
                self._protocol.data_received(data)
                # A record, 16 KiB at most, is read whole: nothing of it waits anywhere else.
                if not incoming.pending:
                    break
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self._end()
        except ssl.SSLError as error:
            self._break_off(error)
        finally:
            self._reading = False
        self._flush()
        if self._written and not self._parted:
            self._end_writing()

    def _break_off(self, error: ssl.SSLError) -> None:
        if self._keep is not None and self._refused is not None:
            # In TLS 1.3 a server looks at the certificate when the client is done, and says by an alert what it thinks.
            self._refused(error)
        super()._break_off(error)

    def _keep_session(self) -> None:
        keep, self._keep = self._keep, None
        if keep is not None and (session := self.tls.session) is not None:
            keep(session)

    def _end(self) -> None:
        """The peer ended its side, with TLS' own goodbye or without: whether with, a further `tls.read` tells."""
        if not self._ended:
            self._ended = True
            if not self._protocol.eof_received():
                self.close()

    def resume_reading(self) -> None:
        self._held = False
        self._raw.resume_reading()
        if not self._reading and (self._incoming.pending or self._incoming.eof):
            self._loop.call_soon(self._read)

    def discard(self) -> None:
        """Nobody wants it any more, whether it is connected or not yet."""
        self._unwanted = True
        self.abort()
