"""Counts every exchange once, when it is over: for Prometheus, and in short for `mitmesh top`.

What counting costs is paid by every request. So exchanges that are alike (of a
route, endpoint and status) share a cell that is found by one look-up and
gathers what they took; label values are worked out once per cell, the series
that Prometheus knows are filled from the cells when somebody reads.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable

from mitmproxy import ctx, http

from addons import metrics_labels as labels
from addons.access_log import sizes
from addons.acting import kind_of
from addons.exchange import Attempt, Exchange, exchange_of
from addons.metrics_series import Cell, Count, Latency, Requests, Table
from addons.metrics_summary import traffic_since
from addons.metrics_text import Counts
from control.histogram import EDGES
from control.policy.snapshot import Snapshot
from control.traffic import write_traffic

logger = logging.getLogger("mesh.metrics")

MOST_COUNTERS = 2000
"""Label sets of a metric that is one line for each of them."""
MOST_HISTOGRAMS = 400
"""Label sets of a metric that is twenty lines for each."""
SHORTEST_WINDOW = 0.9
"""Seconds that a summary covers at least."""
MOST_GATHERED = 256
"""Exchanges that a cell holds until its series are brought up to date, though nobody reads them."""
_MOST_CELLS = 20_000


class Metrics:
    """Looks at what is known when an exchange ends; an error in it is logged once and disturbs no exchange."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = Table("mitmesh_requests", labels.REQUESTS, MOST_COUNTERS, Requests)
        self.attempts = Table("mitmesh_attempts", labels.ATTEMPTS, MOST_COUNTERS, Count)
        self.faults = Table("mitmesh_faults_injected", labels.FAULTS, MOST_COUNTERS, Count)
        self.latency = Table(
            "mitmesh_request_duration_milliseconds", labels.LATENCY, MOST_HISTOGRAMS, Latency
        )
        self.upstream = Table(
            "mitmesh_upstream_duration_milliseconds", labels.UPSTREAM, MOST_HISTOGRAMS, Latency
        )
        self.tables = (self.requests, self.attempts, self.faults, self.latency, self.upstream)
        self.more: list[Callable[[], list[Counts]]] = []
        """What other features count, asked at every scrape."""
        self.gauges: list[Callable[[], Iterable[tuple[str, str, float]]]] = []
        """What other parts of the proxy tell at each scrape: name, help, value."""
        self.errors = 0
        self.clock = clock
        self.policy_since: float | None = None
        """When the policy came into force here, by `clock`."""
        self._cells: dict[tuple[object, ...], Cell] = {}
        self._told_at = clock()
        self._summary = ""

    def response(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or exchange.counted:
            return
        websocket = flow.websocket
        if websocket is not None and websocket.timestamp_end is None and flow.error is None:
            # Its messages have only begun.
            return
        exchange.counted = True
        try:
            self._count(flow, exchange)
        except Exception as error:
            self._failed("an exchange was not counted", error)

    # Any of them may be the end of an exchange, and two of them where a client leaves after its answer was made.
    websocket_end = error = mesh_refused = response

    def mesh_policy(self, snapshot: Snapshot) -> None:
        """Let go of the old policy's objects, and of what it alone had once room is needed."""
        self.policy_since = self.clock()
        self._forget()
        for table in self.tables:
            table.sweep_when_full(
                lambda names: labels.stale_in(snapshot, ctx.options.mesh_service.lower(), names)
            )

    def settle(self) -> None:
        """Bring the series up to date."""
        for cell in self._cells.values():
            if cell.took:
                cell.settle()

    def summary(self) -> str:
        """The traffic since the last summary, as text for the node's report; the last one again if that was just now."""
        now = self.clock()
        seconds = now - self._told_at
        if seconds >= SHORTEST_WINDOW:
            self._told_at = now
            try:
                self.settle()
                traffic = traffic_since(self.requests.all(), self.latency.all(), time.time(), seconds)
                self._summary = write_traffic(traffic)
            except Exception as error:
                self._summary = ""
                self._failed("a summary was not made", error)
        return self._summary

    def _forget(self) -> None:
        self.settle()
        self._cells.clear()

    def _failed(self, what: str, error: Exception) -> None:
        self.errors += 1
        if self.errors == 1:
            logger.error(f"{what}; further failures are counted, not logged", exc_info=error)

    def _count(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        took = ((exchange.ended or time.perf_counter()) - exchange.started) * 1000
        response = flow.response
        status = 0 if response is None else response.data.status_code
        attempts = exchange.attempts
        if (
            len(attempts) == 1
            and not exchange.flags
            and not exchange.streamed
            and not (attempt := attempts[0]).injected
        ):
            key = (
                id(exchange.route),
                id(attempt.endpoint),
                attempt.status,
                status,
                exchange.service,
                exchange.source,
            )
            cell = self._cells.get(key) or self._plain_cell(key, exchange, attempt, status)
            cell.waited.append((attempt.ended - attempt.started) * 1000)
        else:
            cell = self._cell(flow, exchange, status)
            for attempt in attempts:
                self._count_attempt(exchange, attempt)
            if exchange.acting is not None:
                self._count_faults(exchange, exchange.acting.kinds)
        sent, received = exchange.sizes or sizes(flow, exchange)
        cell.sent += sent
        cell.received += received
        times = cell.took
        times.append(took)
        if len(times) >= MOST_GATHERED:
            cell.settle()

    def _plain_cell(self, key: tuple[object, ...], exchange: Exchange, attempt: Attempt, status: int) -> Cell:
        """For exchanges with one attempt and nothing remarkable about it."""
        cell = self._new_cell(key, exchange, attempt, status, "-", None)
        cell.attempts = self.attempts.of(labels.attempt_labels(exchange, attempt))
        if attempt.status is not None:
            cell.upstream = self.upstream.of(labels.upstream_labels(exchange, attempt))
        return cell

    def _cell(self, flow: http.HTTPFlow, exchange: Exchange, status: int) -> Cell:
        """For all others; their attempts are counted one by one."""
        last = exchange.attempts[-1] if exchange.attempts else None
        # In one order, so that the same flags are one label value.
        flags = ",".join(sorted(exchange.flags)) or "-"
        grpc = labels.grpc_status(flow) if exchange.streamed else None
        key = (
            id(exchange.route),
            id(exchange.share),
            id(last.endpoint) if last is not None else None,
            labels.injected(exchange, last),
            exchange.service,
            exchange.source,
            exchange.inbound,
            status,
            flags,
            grpc,
        )
        return self._cells.get(key) or self._new_cell(key, exchange, last, status, flags, grpc)

    def _new_cell(
        self,
        key: tuple[object, ...],
        exchange: Exchange,
        last: Attempt | None,
        status: int,
        flags: str,
        grpc: str | None,
    ) -> Cell:
        if len(self._cells) >= _MOST_CELLS:
            self._forget()
        requests = self.requests.of(labels.request_labels(exchange, last, status, flags, grpc))
        requests.failed = labels.failed(status, exchange.flags, grpc)
        requests.injected = requests.failed and labels.injected(exchange, last)
        latency = self.latency.of(labels.whose(exchange, last))
        kept = (exchange.route, exchange.share, last.endpoint if last is not None else None)
        # What follows an upgrade may last for hours, which is no latency.
        cell = self._cells[key] = Cell(requests, latency, status != 101, kept)
        return cell

    def _count_attempt(self, exchange: Exchange, attempt: Attempt) -> None:
        self.attempts.of(labels.attempt_labels(exchange, attempt)).count += 1
        if attempt.delay is not None:
            self._count_faults(exchange, ("delay",))
        if attempt.abort is not None:
            self._count_faults(exchange, (kind_of(attempt.abort),))
        if attempt.acting is not None:
            self._count_faults(exchange, attempt.acting.kinds)
        waited = (attempt.ended - attempt.started - (attempt.delay or 0.0)) * 1000
        if attempt.status is not None and not attempt.injected and waited >= 0:
            upstream = self.upstream.of(labels.upstream_labels(exchange, attempt))
            upstream.total += waited
            upstream.buckets[bisect_left(EDGES, waited)] += 1

    def _count_faults(self, exchange: Exchange, kinds: Iterable[str]) -> None:
        for kind in kinds:
            self.faults.of(labels.fault_labels(exchange, kind)).count += 1
