"""Who calls at an inbound port: told by the verified certificate alone, and passed on as Envoy does.

The header x-forwarded-client-cert is made here or not there at all (Envoy's `forward_client_cert_details:
SANITIZE_SET`): what a caller says about itself by it is removed.
"""

from mitmproxy import http

from addons.answers import own_answer
from addons.exchange import Exchange
from addons.peer import peer_of

HEADER = b"x-forwarded-client-cert"


def identify(flow: http.HTTPFlow, exchange: Exchange) -> None:
    """Note the caller in the exchange and in the header; refuse plain text where mutual TLS alone is taken.

    Such a connection may have been opened before the policy said so, or before there was any.
    """
    headers = flow.request.data.headers
    for name, _ in headers.fields:
        if len(name) == len(HEADER) and name.lower().replace(b"_", b"-") == HEADER:
            kept = [field for field in headers.fields if field[0].lower().replace(b"_", b"-") != HEADER]
            headers.fields = tuple(kept)
            break
    peer = peer_of(flow.client_conn)
    if peer is not None:
        exchange.peer, exchange.source, exchange.tls = peer.spiffe_id, peer.service, peer.tls
        headers.fields += ((HEADER, peer.forwarded),)
        return
    snapshot = exchange.snapshot
    if snapshot is not None and snapshot.inbound_mtls(exchange.service) == "strict":
        own_answer(flow, exchange, 403, "RBAC", "plain text where mutual TLS alone is taken (mtls: strict)")
