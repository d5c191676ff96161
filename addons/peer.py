"""Who is at the other end of a client's connection, as its verified certificate says.

It hangs on mitmproxy's Client as a plain attribute, which mitmproxy neither
saves nor copies, from the handshake's end on: for every flow of the connection.
"""

from dataclasses import dataclass

from mitmproxy import connection

_ATTRIBUTE = "mesh_peer"


@dataclass(frozen=True, slots=True)
class Peer:
    """spiffe_id, service: whom the certificate names. tls: such as `TLSv1.3`.

    forwarded: what the application is told of it, in the form of Envoy's x-forwarded-client-cert.
    """

    spiffe_id: str
    service: str
    tls: str
    forwarded: bytes


def peer_of(client: connection.Client) -> Peer | None:
    """None: a connection without mutual TLS, which proves nothing."""
    return client.__dict__.get(_ATTRIBUTE)


def note_peer(client: connection.Client, peer: Peer) -> None:
    """For whoever has verified the certificate."""
    client.__dict__[_ATTRIBUTE] = peer
