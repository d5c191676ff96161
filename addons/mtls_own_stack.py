"""Mutual TLS where mitmproxy's own stack speaks TLS: its `tls_*` hooks, with contexts of ours."""

import contextlib
import re
from typing import TYPE_CHECKING, cast

from mitmproxy import connection, ctx, tls
from OpenSSL import SSL, crypto

from addons.engine.origin import Origin
from addons.mtls_contexts import Verdict
from addons.peer import note_peer
from control.identity.peers import Distrust, chain_distrust, handshake_distrust

if TYPE_CHECKING:
    from addons.mtls import Mtls

_LAST_REASON = re.compile(r"'([^']*)'\)\]\)")
_SAYS_ITSELF = {
    "does not speak TLS": "wrong version number",
    "cannot agree on a TLS version": "unsupported protocol",
}
"""Where mitmproxy replaces OpenSSL's words by its own."""


class OwnStack:
    """Whom mitmproxy is to expect at the other end, by client and by server; what is not in here is not ours."""

    def __init__(self, mtls: "Mtls") -> None:
        self._mtls = mtls
        self._clients: dict[str, Verdict] = {}
        self._servers: dict[str, dict[tuple[str, int], str]] = {}
        self._judged: dict[str, Verdict] = {}

    def expect(self, client: connection.Client) -> None:
        """This client's TLS is of the mesh."""
        self._clients[client.id] = Verdict()

    def meet(self, client: connection.Client, origin: Origin) -> None:
        """For this client the address leads to the peer of `origin`. Raises Distrust where it already led to another.

        mitmproxy would use the connection of the one for the other.
        """
        known = self._servers.setdefault(client.id, {})
        if known.setdefault((origin.host, origin.port), origin.peer) != origin.peer:
            raise Distrust(
                "wrong-service", f"{origin} is an endpoint of another service for this client already"
            )

    def forget(self, client: connection.Client) -> None:
        """The client has left."""
        self._clients.pop(client.id, None)
        self._servers.pop(client.id, None)

    # mitmproxy's hooks, which the feature hands on

    def start_client(self, data: tls.TlsData) -> None:
        verdict = self._clients.get(data.context.client.id)
        if verdict is not None:
            contexts = self._mtls.contexts()
            data.ssl_conn = SSL.Connection(_refusing() if contexts is None else contexts.own_server)
            data.ssl_conn.set_app_data(verdict)
            data.ssl_conn.set_accept_state()

    def established_client(self, data: tls.TlsData) -> None:
        client = data.context.client
        contexts = self._mtls.contexts()
        if client.id in self._clients and contexts is not None and data.ssl_conn is not None:
            shown = data.ssl_conn.get_peer_certificate()
            assert shown is not None
            der = crypto.dump_certificate(crypto.FILETYPE_ASN1, shown)
            version = data.ssl_conn.get_protocol_version_name()
            note_peer(client, contexts.peer(shown.to_cryptography(), der, version))
            self._mtls.refusals.accepted["mutual_tls"] += 1

    def failed_client(self, data: tls.TlsData) -> None:
        client = data.context.client
        verdict = self._clients.get(client.id)
        if verdict is not None:
            self._mtls.refusals.inbound(client, verdict.distrust or _distrust(data.conn.error or ""))
            handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
            if handler is not None and data.ssl_conn is not None:
                # The alert that says why; mitmproxy closes without it.
                with contextlib.suppress(SSL.Error):
                    handler.transports[client].writer.write(data.ssl_conn.bio_read(65535))

    def start_server(self, data: tls.TlsData) -> None:
        expected = self._expected(data)
        if expected is not None:
            contexts = self._mtls.contexts()
            made = data.ssl_conn = SSL.Connection(_refusing() if contexts is None else contexts.own_client)
            made.set_app_data(self._judged.setdefault(data.conn.id, Verdict(expected)))
            made.set_connect_state()
            h2 = data.context.client.alpn == b"h2"
            made.set_alpn_protos([b"h2", b"http/1.1"] if h2 else [b"http/1.1"])

    def established_server(self, data: tls.TlsData) -> None:
        self._judged.pop(data.conn.id, None)

    def failed_server(self, data: tls.TlsData) -> None:
        verdict = self._judged.pop(data.conn.id, None)
        server = cast(connection.Server, data.conn)
        if verdict is not None and server.address is not None:
            host, port = server.address[:2]
            distrust = verdict.distrust or _distrust(data.conn.error or "")
            self._mtls.refusals.outbound(f"{host}:{port} ({verdict.expected})", distrust)

    def _expected(self, data: tls.TlsData) -> str | None:
        known = self._servers.get(data.context.client.id)
        address = cast(connection.Server, data.conn).address
        return known.get(address[:2]) if known is not None and address is not None else None


def _refusing() -> SSL.Context:
    """Without an identity nobody is trusted; without a context of ours mitmproxy would take one of its own."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: False)
    return context


def _distrust(error: str) -> Distrust:
    """From mitmproxy's words for a failed handshake."""
    if error.startswith("Certificate verify failed: "):
        return chain_distrust(0, error.partition(": ")[2])
    for words, reason in _SAYS_ITSELF.items():
        if words in error:
            return handshake_distrust(reason)
    if found := _LAST_REASON.search(error):
        return handshake_distrust(found[1])
    if "closed" in error or "disconnected" in error.lower() or "EOF" in error:
        return Distrust("left", "it left during the handshake")
    return handshake_distrust(error)
