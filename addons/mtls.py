"""Mutual TLS at inbound ports and towards other services, as the policy's `mtls` says; enforcing, so it fails closed.

At an inbound port the first byte tells whether a connection is TLS. In the fast
lane the engine's TLS is put between socket and HTTP; in mitmproxy's own lane it
is mitmproxy that speaks TLS, with contexts of ours (addons/mtls_own_stack.py).
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable
from enum import Enum
from typing import Any

from cryptography import x509
from mitmproxy import certs, connection, ctx
from mitmproxy.proxy import mode_specs

from addons.certificates import Certificates
from addons.engine.client_link import HEAD_TIMEOUT, IDLE_TIMEOUT
from addons.engine.origin import Origin
from addons.engine.tls import Security, TlsLayer
from addons.fast_lane import read_later
from addons.mtls_contexts import Contexts
from addons.mtls_outbound import Outbound
from addons.mtls_own_stack import OwnStack
from addons.mtls_refusals import Refusals
from addons.peer import note_peer
from addons.policy_feed import PolicyFeed
from control.identity.identity import Identity
from control.identity.peers import Distrust
from control.policy.mtls import Mode

logger = logging.getLogger("mesh.mtls")

_TLS = 0x16
"""The first byte of a TLS handshake, with which no HTTP begins."""


class Entry(Enum):
    """What becomes of a connection at an inbound port."""

    PLAIN = "plain"
    SECURE = "secure"
    REFUSED = "refused"


class Mtls:
    """One for the process."""

    def __init__(self, feed: PolicyFeed, certificates: Certificates) -> None:
        self.refusals = Refusals()
        self._feed = feed
        self._certificates = certificates
        self._made: Contexts | None = None
        certificates.changed.append(self._renew)
        self.outbound = Outbound(
            lambda: ctx.options.mesh_name, certificates, self.contexts, self.refusals.outbound
        )
        self.own_stack = stack = OwnStack(self)
        self.tls_start_client, self.tls_start_server = stack.start_client, stack.start_server
        self.tls_established_client = stack.established_client
        self.tls_established_server = stack.established_server
        self.tls_failed_client, self.tls_failed_server = stack.failed_client, stack.failed_server

    def contexts(self) -> Contexts | None:
        """Those of the identity that this proxy has now; None: it has none."""
        identity = self._certificates.identity
        if identity is None:
            return None
        made = self._made
        if made is None or made.identity is not identity:
            made = self._made = Contexts(identity, ctx.options.mesh_name)
        return made

    def _renew(self, identity: Identity) -> None:
        self.outbound.renew()

    # At inbound ports

    def is_inbound(self, port: int) -> bool:
        return port in self._feed.inbound

    def _mode(self) -> Mode | None:
        """Without a policy as yet, either is let in; each request waits for the policy and is judged by it again."""
        snapshot = self._feed.sync.snapshot if self._feed.sync is not None else None
        return "permissive" if snapshot is None else snapshot.inbound_mtls(self._feed.service)

    def enter(self, client: connection.Client, first: int) -> Entry:
        """Whether a connection that starts with this byte may come in at an inbound port, and how. Says why not."""
        mode = self._mode()
        if first != _TLS:
            if mode != "strict":
                self.refusals.accepted["none"] += 1
                return Entry.PLAIN
            self.refusals.inbound(
                client, Distrust("plaintext", "plain text where mutual TLS alone is taken (mtls: strict)")
            )
        elif mode is None:
            self.refusals.inbound(
                client, Distrust("tls", "TLS where plain connections alone are taken (mtls: off)")
            )
        elif self._certificates.identity is None:
            self.refusals.inbound(
                client,
                Distrust(
                    "no-own-certificate", "this proxy has no certificate: give it mesh_identity or mesh_token"
                ),
            )
        else:
            return Entry.SECURE
        return Entry.REFUSED

    def security(self, client: connection.Client) -> Security:
        """For a connection that is to be secured; after the handshake the client has its peer. Needs an identity."""
        contexts = self.contexts()
        assert contexts is not None

        def verify(tls: ssl.SSLObject) -> None:
            self.introduce(client, tls, contexts)
            self.refusals.accepted["mutual_tls"] += 1

        return Security(contexts.server, verify, server_side=True)

    def introduce(self, client: connection.Client, tls: ssl.SSLObject, contexts: Contexts) -> None:
        """Note on mitmproxy's client what the handshake has shown. Raises Untrusted."""
        peer = contexts.judge(tls)
        note_peer(client, peer)
        der = tls.getpeercert(binary_form=True)
        client.tls = True
        client.tls_version = peer.tls  # type: ignore[assignment]
        client.alpn = (tls.selected_alpn_protocol() or "").encode()
        cipher = tls.cipher()
        client.cipher = cipher[0] if cipher is not None else None
        if der is not None:
            client.certificate_list = [certs.Cert(x509.load_der_x509_certificate(der))]

    def prepare(self, client: connection.Client, origin: Origin) -> None:
        """Before mitmproxy itself connects for this client to an origin with a peer. Raises NoIdentity, Distrust."""
        self.outbound.contexts(origin.peer)
        self.own_stack.meet(client, origin)

    # Connections that mitmproxy accepted

    def client_connected(self, client: connection.Client) -> Awaitable[None] | None:
        """Judge it before a byte of it is served."""
        if client.error or client.transport_protocol != "tcp" or not self.is_inbound(client.sockname[1]):
            return None
        handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
        # None: one that our own listener serves, which has asked.
        return None if handler is None else self._admit(client, handler)

    async def _admit(self, client: connection.Client, handler: Any) -> None:
        """Whatever goes wrong here, it is not let in."""
        try:
            await self._receive(client, handler.transports[client])
        except Exception as error:
            if not isinstance(error, OSError):
                logger.exception("an inbound connection could not be judged; it was closed")
            client.error = str(error) or "it took too long"

    async def _receive(self, client: connection.Client, io: Any) -> None:
        transport = io.writer.transport
        if isinstance(transport, TlsLayer):
            # The listener has seen to it.
            contexts = self.contexts()
            assert contexts is not None
            self.introduce(client, transport.tls, contexts)
            return
        async with asyncio.timeout(IDLE_TIMEOUT):
            first = await io.reader.read(65536)
        if not first:
            client.error = "it left without a word"
            return
        entry = self.enter(client, first[0])
        if entry is Entry.REFUSED:
            client.error = "refused; see above"
        elif entry is Entry.SECURE and not self._is_for_own_stack(client):
            await self._secure(client, io, first)
        else:
            if entry is Entry.SECURE:
                self.own_stack.expect(client)
            # Not by feed_data: that refuses once the client has ended its side.
            io.reader._buffer[:0] = first
            read_later(io.reader)

    def _is_for_own_stack(self, client: connection.Client) -> bool:
        """In other modes mitmproxy would take TLS of the client for a wish to be sent on by TLS."""
        mode = client.proxy_mode
        return (
            not ctx.options.mesh_fastlane
            and isinstance(mode, mode_specs.ReverseMode)
            and mode.scheme == "http"
        )

    async def _secure(self, client: connection.Client, io: Any, first: bytes) -> None:
        """Put TLS between the socket and whoever serves the connection."""
        loop = asyncio.get_running_loop()
        before: asyncio.StreamReader = io.reader
        raw: asyncio.Transport = io.writer.transport
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        over: asyncio.Future[None] = loop.create_future()

        def told(error: Exception | None) -> None:
            if error is None:
                protocol.connection_made(layer)
            else:
                self.refusals.inbound(client, error)
            if not over.done():
                over.set_result(None) if error is None else over.set_exception(OSError(str(error)))

        layer = TlsLayer(self.security(client), protocol, told)
        first += bytes(before._buffer)  # type: ignore[attr-defined]
        raw.set_protocol(layer)
        layer.connection_made(raw)
        raw.resume_reading()
        layer.data_received(first)
        if before.at_eof():
            layer.eof_received()
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                await over
        except BaseException:
            layer.discard()
            raise
        io.reader, io.writer = reader, asyncio.StreamWriter(layer, protocol, reader, loop)
        read_later(reader)

    def client_disconnected(self, client: connection.Client) -> None:
        self.own_stack.forget(client)
