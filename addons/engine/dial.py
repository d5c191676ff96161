"""Opening a connection: names, addresses in parallel, TLS, and what to say when it fails."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from itertools import zip_longest
from typing import TypeVar

from addons.engine.errors import UpstreamError
from addons.engine.origin import Origin
from addons.engine.tls import Security, TlsLayer, Untrusted
from addons.engine.tls_transport import words_of

STAGGER = 0.25  # seconds until the next address is tried beside the one before (RFC 8305 section 5)
TLS_GOODBYE = 2.0  # seconds that a peer has for its half of a TLS shutdown


class Dialled(asyncio.Protocol):
    """What a factory has to make: a protocol that can be dropped."""

    def discard(self) -> None:
        """Close the connection, at once if it is open and as soon as it will be otherwise."""
        raise NotImplementedError


P = TypeVar("P", bound=Dialled)


Tls = ssl.SSLContext | Security | None
"""A context for TLS with the origin's name verified; a Security of our own; none: plain TCP."""


async def dial(origin: Origin, context: Tls, factory: Callable[[], P], limit: float) -> P:
    """A connected protocol. `limit` (seconds) covers everything: name, TCP, TLS. Raises UpstreamError.

    Every other protocol that the factory was asked for is discarded.
    """
    if origin.peer and not isinstance(context, Security):
        # Nothing else looks at whom the certificate names.
        raise _failure(f"nobody here can verify that a certificate is of {origin.peer}")
    made: list[P] = []

    def make() -> P:
        protocol = factory()
        made.append(protocol)
        return protocol

    winner = None
    try:
        async with asyncio.timeout(limit):
            winner = await _dial(origin, context, make)
            return winner
    except TimeoutError as error:
        # With a number it is the kernel that gave up.
        raise _failure("timed out" if error.errno else f"timed out after {limit:g} s") from None
    except (OSError, ssl.SSLError, Untrusted, UnicodeError) as error:
        raise _failure(_detail(origin, error)) from None
    finally:
        # What is cancelled while it connects may still be told connection_made, and by uvloop no connection_lost.
        for protocol in made:
            if protocol is not winner:
                protocol.discard()


async def _dial(origin: Origin, context: Tls, factory: Callable[[], P]) -> P:
    addresses = await _addresses(origin)
    if len(addresses) == 1:
        return await _connect(origin, context, factory, addresses[0])
    return await _race(origin, context, factory, addresses)


async def _connect(origin: Origin, context: Tls, factory: Callable[[], P], address: str) -> P:
    loop = asyncio.get_running_loop()
    if isinstance(context, Security):
        return await _secure(origin, context, factory(), address)
    if context is None:
        _, protocol = await loop.create_connection(factory, address, origin.port)
        return protocol
    _, protocol = await loop.create_connection(
        factory,
        address,
        origin.port,
        ssl=context,
        server_hostname=origin.server_name or origin.host,
        ssl_shutdown_timeout=TLS_GOODBYE,
    )
    return protocol


async def _secure(origin: Origin, security: Security, protocol: P, address: str) -> P:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def told(error: Exception | None) -> None:
        if error is None:
            # Not later: the first bytes may be on their way.
            protocol.connection_made(layer)
        if not over.done():
            if error is None:
                over.set_result(None)
            else:
                over.set_exception(error)

    layer = TlsLayer(security, protocol, told)
    try:
        await loop.create_connection(lambda: layer, address, origin.port)
        await over
    except BaseException:
        layer.discard()
        raise
    return protocol


async def _addresses(origin: Origin) -> list[str]:
    """The numeric addresses of a host, families in turn, the resolver's first one first."""
    try:
        ip_address(origin.host.partition("%")[0])
    except ValueError:
        pass
    else:
        return [origin.host]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    by_family: dict[int, list[str]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, []).append(str(address[0]))
    turns = zip_longest(*by_family.values())
    return list(dict.fromkeys(address for turn in turns for address in turn if address is not None))


async def _race(origin: Origin, context: Tls, factory: Callable[[], P], addresses: list[str]) -> P:
    """The first address that connects wins; each gets a head start over the next (happy eyeballs)."""
    attempts: set[asyncio.Task[P]] = set()
    waiting = list(addresses)
    first_error: BaseException | None = None
    try:
        while waiting or attempts:
            if waiting:
                attempt = _connect(origin, context, factory, waiting.pop(0))
                attempts.add(asyncio.ensure_future(attempt))
            done, attempts = await asyncio.wait(
                attempts, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    attempts |= done - {task}
                    return task.result()
                first_error = first_error or error
    finally:
        for task in attempts:
            task.cancel()
            task.add_done_callback(_ignore)
    assert first_error is not None
    raise first_error


def _ignore(task: "asyncio.Task[P]") -> None:
    """Take note of how it went, or asyncio complains that nobody did."""
    if not task.cancelled():
        task.exception()


def _failure(detail: str) -> UpstreamError:
    return UpstreamError("connect-failure", detail, nothing_sent=True)


def _detail(origin: Origin, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return words_of(error)
    if isinstance(error, ssl.SSLError):
        return f"TLS: {words_of(error)}"
    if isinstance(error, Untrusted):
        return str(error)
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"name not known: {origin.host}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return "closed by the upstream while connecting"
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if number else str(error).lower()
