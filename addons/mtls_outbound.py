"""Mutual TLS towards other services: which endpoints are reached by it, and what their certificate has to prove."""

import ssl
import time
from collections.abc import Callable

from addons.certificates import Certificates
from addons.engine.client import default_tls
from addons.engine.origin import Origin
from addons.engine.tls import Security
from addons.mtls_contexts import Contexts
from control.identity.names import parse_spiffe_id, spiffe_id
from control.policy.mtls import Mode

_MOST = 10_000


class NoIdentity(Exception):
    """This proxy cannot prove who it is: one sentence with what to do."""


class Outbound:
    """`mesh` gives the mesh's name, `contexts` those of the present identity, `refused` is told of each endpoint refused."""

    def __init__(
        self,
        mesh: Callable[[], str],
        certificates: Certificates,
        contexts: Callable[[], Contexts | None],
        refused: Callable[[str, Exception], None],
    ) -> None:
        self._mesh = mesh
        self._certificates = certificates
        self._contexts = contexts
        self._refused = refused
        self._origins: dict[tuple[str, int, str], Origin] = {}
        self._sessions: dict[Origin, ssl.SSLSession] = {}
        self._system: ssl.SSLContext | None = None

    def renew(self) -> None:
        """The identity is another: connections from now on show it, those that are open go on."""
        self._origins.clear()
        self._sessions.clear()

    def origin(self, host: str, port: int, service: str, mode: Mode) -> Origin | None:
        """Where to connect for an endpoint of that service; None: plainly, since it takes that and we have no certificate.

        Connections are shared by those who name an equal origin, so never between services.
        """
        key = (host, port, service)
        found = self._origins.get(key)
        if found is not None:
            return found
        identity = self._certificates.identity
        if identity is None:
            if mode == "permissive":
                return None
            return Origin(host, port, True, "", spiffe_id(self._mesh(), service))
        if len(self._origins) > _MOST:
            self._origins.clear()
        named = spiffe_id(self._mesh(), service)
        found = self._origins[key] = Origin(host, port, True, "", named, identity.generation)
        return found

    def tls(self, origin: Origin) -> ssl.SSLContext | Security:
        """How a connection is secured that is about to be opened. Raises NoIdentity."""
        if not origin.peer:
            if self._system is None:
                self._system = default_tls(origin)
            return self._system
        contexts = self.contexts(origin.peer)
        expected = origin.peer

        def verify(tls: ssl.SSLObject) -> None:
            contexts.judge(tls, expected)

        session = self._sessions.get(origin)
        return Security(
            contexts.client,
            verify,
            server_side=False,
            # Python takes a session for the context alone that made it.
            session=session if origin.generation == contexts.identity.generation else None,
            keep=lambda made: self._keep(origin, made),
            refused=lambda error: self._refused(f"{origin} ({expected})", error),
        )

    def contexts(self, peer: str) -> Contexts:
        """Those of the present identity, for a connection to `peer`. Raises NoIdentity."""
        contexts = self._contexts()
        if contexts is None:
            raise NoIdentity(
                f"service {parse_spiffe_id(peer)[1]} takes mutual TLS alone (mtls: strict) and this proxy has no"
                " certificate: give it one by --set mesh_identity=DIR or mesh_token"
            )
        if contexts.identity.not_after < time.time():
            raise NoIdentity(
                f"service {parse_spiffe_id(peer)[1]} wants mutual TLS and this proxy's own certificate has expired:"
                " renew it, and see that `mitmesh ca serve` runs"
            )
        return contexts

    def _keep(self, origin: Origin, session: ssl.SSLSession) -> None:
        identity = self._certificates.identity
        if identity is not None and identity.generation == origin.generation and len(self._sessions) < _MOST:
            self._sessions[origin] = session
