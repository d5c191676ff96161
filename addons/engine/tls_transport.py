"""The side of TLS that the protocol within sees: a transport that encrypts what it is given."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import Any, cast


class TlsTransport(asyncio.Transport):
    """Over the socket's transport, once that is there (`connected`). tls: what OpenSSL knows of the connection."""

    def __init__(
        self,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        protocol: asyncio.BaseProtocol,
    ) -> None:
        super().__init__()
        self.tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._protocol = cast(asyncio.Protocol, protocol)
        self._raw: asyncio.Transport
        self.connected = False
        self._secure = self._closing = self._held = False
        self._written = False
        """The protocol has said that it will write no more; `parted`: and so has been the peer."""
        self._parted = False
        self._error: Exception | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._written or not data:
            return
        try:
            sent = self.tls.write(data)
            if sent < len(data):
                # A record holds 16 KiB.
                rest = memoryview(data)[sent:]
                while rest:
                    rest = rest[self.tls.write(rest) :]
        except ssl.SSLError as error:
            self._break_off(error)
            return
        self._raw.write(self._outgoing.read())

    def writelines(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(parts))

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    def _break_off(self, error: ssl.SSLError) -> None:
        """An alert, or bytes that nobody could have sent who knows the key."""
        self._flush()
        self._error = ConnectionAbortedError(f"TLS: {words_of(error)}")
        self.abort()

    # The end

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say goodbye; what the peer still says is read on."""
        if not self._written:
            self._written = True
            self._end_writing()

    def _end_writing(self) -> None:
        # While something waits to be read, OpenSSL would take it for an answer to the goodbye.
        if not self._incoming.pending and not self._closing:
            self._parted = True
            self._say_goodbye()
            with contextlib.suppress(OSError):
                self._raw.write_eof()

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self._flush()

    def close(self) -> None:
        if self.connected:
            if self._secure and not self._closing and not self._parted:
                self._say_goodbye()
            self._raw.close()
        self._closing = True

    def abort(self) -> None:
        self._closing = True
        if self.connected:
            self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    # As the socket's transport does it

    def pause_reading(self) -> None:
        self._held = True
        self._raw.pause_reading()

    def is_reading(self) -> bool:
        return not self._held

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.tls if name == "ssl_object" else self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol


def words_of(error: ssl.SSLError) -> str:
    """What OpenSSL says, in lower case: `tlsv1 alert unknown ca`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
