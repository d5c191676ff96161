"""The upstream's connection as mitmproxy's addons know it: `flow.server_conn`."""

from typing import Any

from cryptography import x509
from mitmproxy import certs, connection

from addons.engine.link import Link


def server_of(link: Link) -> connection.Server:
    """One and the same object as long as the connection is open, for every flow that it carries."""
    if link.tag is None:
        link.tag = _server(link)
    server: connection.Server = link.tag
    return server


def _server(link: Link) -> connection.Server:
    origin = link.origin
    server = connection.Server(
        address=(origin.host, origin.port),
        peername=link.peer,
        sockname=link.local,
        timestamp_start=link.opened_at,
        timestamp_tcp_setup=link.opened_at,
    )
    server.state = connection.ConnectionState.OPEN  # from here on its address cannot be changed
    tls: Any = link.transport.get_extra_info("ssl_object")
    if tls is not None:
        server.tls = True
        server.timestamp_tls_setup = link.opened_at
        server.sni = tls.server_hostname
        server.alpn = (tls.selected_alpn_protocol() or "").encode()
        server.cipher = tls.cipher()[0]
        server.tls_version = tls.version()
        if certificate := tls.getpeercert(binary_form=True):
            server.certificate_list = (certs.Cert(x509.load_der_x509_certificate(certificate)),)
    return server
