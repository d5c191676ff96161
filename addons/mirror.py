"""Sends copies of requests to a version that nobody waits for, and throws its answers away.

A copy never delays or changes the answer: it is sent by itself, behind the request, and dropped where too many are under
way already. What nobody holds in memory, a body that streams, has no copy.
"""

import asyncio
import logging
import random
from collections import defaultdict

from mitmproxy import http

from addons.engine.call import Call
from addons.engine.carrier import carrier_of
from addons.engine.errors import UpstreamError
from addons.engine.marks import elsewhere
from addons.engine.outcome import is_killed
from addons.engine.wire import Fields
from addons.exchange import Attempt, Exchange, exchange_of
from addons.forwarder import Forwarder
from addons.metrics import MOST_COUNTERS
from addons.metrics_labels import fault_labels
from addons.metrics_series import Count, Table
from addons.metrics_text import Counts
from addons.needs import needs
from addons.upstream_request import body_of, head_of
from control.policy.balancing import RoundRobin
from control.policy.mirroring import CompiledMirror, shadow_host
from control.policy.snapshot import Snapshot

logger = logging.getLogger("mesh.mirror")

MOST_AT_ONCE = 100
"""Copies under way to one version."""
MOST_BYTES = 16 * 1024 * 1024
"""Bodies of all copies under way."""
LONGEST = 30.0
"""Seconds until a copy is given up."""

Place = tuple[str, str | None]


class Mirror:
    """Enforces nothing: where it fails, the request goes its way all the same."""

    def __init__(self, forwarder: Forwarder, random_source: random.Random | None = None) -> None:
        self._forwarder = forwarder
        self._random = random_source or random.Random()
        self._turns: defaultdict[Place, RoundRobin] = defaultdict(RoundRobin)
        self._active: defaultdict[Place, int] = defaultdict(int)
        self._bytes = 0
        labels = ("destination_service", "route", "mirror", "outcome")
        self._table = Table("mitmesh_mirrored_requests", labels, MOST_COUNTERS, Count)

    @elsewhere
    def request(self, flow: http.HTTPFlow) -> None:
        self.mesh_forward(flow)

    @needs("mirror")
    def mesh_forward(self, flow: http.HTTPFlow) -> None:
        """The request is about to be sent."""
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or (mirror := route.mirror) is None:
            return
        if flow.response is not None or is_killed(flow) or not mirror.wants(self._random):
            return
        carrier = carrier_of(flow)
        if exchange.streamed or (
            carrier is not None and (carrier.upload is not None or carrier.incoming.upgrade)
        ):
            self.count(exchange, mirror, "streamed")
            return
        size = len(flow.request.raw_content or b"")
        place = mirror.service, mirror.version
        if self._active[place] >= MOST_AT_ONCE or self._bytes + size > MOST_BYTES:
            self.count(exchange, mirror, "dropped")
            return
        self._active[place] += 1
        self._bytes += size
        # Behind the request itself.
        asyncio.get_running_loop().call_soon(self._send, flow, exchange, mirror, size)

    def mesh_policy(self, snapshot: Snapshot) -> None:
        """Forget whose turn it is in services that the new snapshot no longer has."""
        for place in [place for place in self._turns if place[0] not in snapshot.services]:
            del self._turns[place]

    def counts(self) -> list[Counts]:
        """For the metrics."""
        values = [(series.labels, float(series.count)) for series in self._table.all()]
        return [Counts(self._table.metric, self._table.names, values)]

    def count(self, exchange: Exchange, mirror: CompiledMirror, outcome: str) -> None:
        """Note what became of a copy: answered, failed, dropped, or streamed (there was none)."""
        service, route, _ = fault_labels(exchange, "")
        self._table.of((service, route, mirror.name, outcome)).count += 1

    def over(self, exchange: Exchange, mirror: CompiledMirror, size: int, outcome: str) -> None:
        """A copy is no longer under way."""
        place = mirror.service, mirror.version
        self._bytes -= size
        self._active[place] -= 1
        if not self._active[place]:
            del self._active[place]
        self.count(exchange, mirror, outcome)

    def _send(self, flow: http.HTTPFlow, exchange: Exchange, mirror: CompiledMirror, size: int) -> None:
        try:
            call = self._start(flow, exchange, mirror)
        except Exception as error:
            logger.warning(f"a request could not be mirrored to {mirror.name}: {error}")
            self.over(exchange, mirror, size, "failed")
            return
        if call is None:
            self.over(exchange, mirror, size, "failed")
            return
        _Copy(self, exchange, mirror, size, call)

    def _start(self, flow: http.HTTPFlow, exchange: Exchange, mirror: CompiledMirror) -> Call | None:
        client, attempts, route = self._forwarder.client, self._forwarder.attempts, exchange.route
        endpoint = self._turns[mirror.service, mirror.version].pick(mirror.endpoints)
        if client is None or attempts is None or route is None or endpoint is None:
            return None
        request = flow.request.copy()
        request.host_header = shadow_host(request.host_header or request.host)
        attempt = Attempt(0, endpoint, endpoint.host, endpoint.port)
        return client.send(
            attempts.origins.of(flow, exchange, attempt),
            head_of(request),
            body_of(request),
            method=request.data.method,
            connect_timeout=route.connect_timeout,
        )


class _Copy:
    """One copy under way, and the sink in which its answer vanishes."""

    def __init__(self, mirror: Mirror, exchange: Exchange, to: CompiledMirror, size: int, call: Call) -> None:
        self._told = (mirror, exchange, to, size)
        self._over = False
        late = UpstreamError("timeout", f"no end within {LONGEST:g} s")
        self._timer = asyncio.get_running_loop().call_later(LONGEST, call.cancel, late)
        call.then(self._answered)

    def _answered(self, call: Call) -> None:
        if call.answer is None:
            self.fail(call.error or RuntimeError("no answer"))
        elif call.answer.upgraded:
            call.answer.close()
            self.end(None)
        else:
            call.answer.stream(self)

    def data(self, data: bytes, /) -> None:
        pass

    def end(self, trailers: Fields | None, /) -> None:
        self._close("answered")

    def fail(self, error: Exception, /) -> None:
        logger.debug(f"a copy to {self._told[2].name} failed: {error}")
        self._close("failed")

    def _close(self, outcome: str) -> None:
        if not self._over:
            self._over = True
            self._timer.cancel()
            mirror, exchange, to, size = self._told
            mirror.over(exchange, to, size, outcome)
