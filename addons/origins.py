"""Where an attempt connects, and how: plainly, by the caller's own wish for TLS, or by mutual TLS of the mesh."""

from mitmproxy import http

from addons.engine.origin import Origin
from addons.exchange import Attempt, Exchange
from addons.mtls_outbound import Outbound

_MOST = 10_000


class Origins:
    """Kept, since making one takes time: they are the keys of the pools."""

    def __init__(self, outbound: Outbound | None) -> None:
        self._outbound = outbound
        self._origins: dict[tuple[str, int, bool, str], Origin] = {}

    def of(self, flow: http.HTTPFlow, exchange: Exchange, attempt: Attempt) -> Origin:
        """For an attempt that sends by the engine's client."""
        asked = attempt.endpoint or exchange.route
        if asked is not None and asked.mtls is not None:
            secured = self.secured(exchange, attempt)
            if secured is not None:
                return secured
        tls = flow.request.data.scheme == b"https"
        key = (attempt.host, attempt.port, tls, flow.request.pretty_host if tls else "")
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) > _MOST:
                # Hosts named by callers are without number; the map is only there to save time.
                self._origins.clear()
            origin = self._origins[key] = Origin(*key)
        return origin

    def secured(self, exchange: Exchange, attempt: Attempt) -> Origin | None:
        """The origin of an attempt that has to be made by mutual TLS; None: it has not."""
        endpoint, route = attempt.endpoint, exchange.route
        if exchange.inbound:
            # To the application itself, whose route is the one of its own service.
            return None
        if endpoint is not None:
            service, mode = endpoint.service, endpoint.mtls
        elif route is not None and route.mtls == "strict":
            # Nobody says of the address that the caller named that it takes TLS, but nothing else may be sent.
            service, mode = route.service, route.mtls
        else:
            return None
        if mode is None:
            return None
        if self._outbound is None:
            raise RuntimeError("mutual TLS without the feature that speaks it")
        return self._outbound.origin(attempt.host, attempt.port, service, mode)
