"""What the proxy can tell of itself at this moment, gathered for a scrape."""

from addons.engine.pool import PoolStats
from addons.forwarder import Forwarder
from addons.metrics import Metrics
from addons.metrics_labels import LATENCY, UNCLAIMED, UNKNOWN, addresses_of
from addons.metrics_series import Labels
from addons.metrics_text import Counts, Histogram, Picture
from addons.policy_feed import PolicyFeed, release
from control.policy.breaking import State
from control.policy.snapshot import Snapshot


class Photographer:
    """Takes pictures on the event loop, where nothing is being counted meanwhile."""

    def __init__(self, metrics: Metrics, feed: PolicyFeed, forwarder: Forwarder) -> None:
        self._metrics = metrics
        self._feed = feed
        self._forwarder = forwarder
        self._snapshot: Snapshot | None = None
        self._addresses: frozenset[str] = frozenset((UNKNOWN,))

    def take(self) -> Picture:
        picture = Picture()
        metrics = self._metrics
        metrics.settle()
        for table in (metrics.requests, metrics.attempts, metrics.faults):
            values = [(series.labels, float(series.count)) for series in table.all()]
            picture.counts.append(Counts(table.metric, table.names, values))
        for name in ("received", "sent"):
            metric = "mitmesh_request_bytes" if name == "received" else "mitmesh_response_bytes"
            bodies = [(series.labels, float(getattr(series, name))) for series in metrics.latency.all()]
            picture.counts.append(Counts(metric, LATENCY, bodies))
        for histogram in (metrics.latency, metrics.upstream):
            lengths = [(series.labels, series.buckets.copy(), series.total) for series in histogram.all()]
            picture.histograms.append(Histogram(histogram.metric, histogram.names, lengths))
        for counts in metrics.more:
            picture.counts += counts()
        self._policy(picture)
        self._pools(picture)
        self._breakers(picture)
        self._own(picture)
        return picture

    def _policy(self, picture: Picture) -> None:
        sync = self._feed.sync
        snapshot = sync.snapshot if sync is not None else None
        connected = sync is not None and sync.connected
        picture.gauge(
            "mitmesh_redis_connected", "1: changes of the policy are followed, 0: Redis is away", connected
        )
        picture.gauge(
            "mitmesh_policy_revision",
            "Revision of the policy in force; 0: nothing was applied yet, -1: no policy, all is refused",
            -1 if snapshot is None else snapshot.revision,
        )
        since = self._metrics.policy_since
        if since is not None:
            age = self._metrics.clock() - since
            picture.gauge(
                "mitmesh_policy_age_seconds", "Time since the policy in force came into force here", age
            )
        picture.gauge(
            "mitmesh_policy_refused",
            "1: a newer policy was refused, see the log and `mitmesh status`",
            sync is not None and bool(sync.error),
        )

    def _pools(self, picture: Picture) -> None:
        client = self._forwarder.client
        stats = client.stats() if client is not None else {}
        values: dict[Labels, float] = {}
        for origin, pool in stats.items():
            endpoint = self._endpoint(str(origin))
            for state, count in _states(pool):
                values[endpoint, state] = values.get((endpoint, state), 0) + count
        told = "Connections of the pool, by what they do"
        picture.gauges.append(("mitmesh_upstream_connections", told, values, ("endpoint", "state")))

    def _breakers(self, picture: Picture) -> None:
        picking = self._forwarder.picking
        names = ("destination_service", "endpoint")
        ejected: dict[Labels, float] = {
            (service or UNCLAIMED, self._endpoint(address), health.state.value): 1
            for service, address, health in picking.breaking.states()
            if health.state is not State.CLOSED
        }
        told = "Endpoints that a circuit breaker has ejected"
        picture.gauges.append(("mitmesh_endpoints_ejected", told, ejected, (*names, "state")))
        ejections: dict[Labels, float] = {}
        for (service, address), count in picking.breaking.ejections.items():
            labels = (service or UNCLAIMED, self._endpoint(address))
            ejections[labels] = ejections.get(labels, 0) + count
        picture.counts.append(Counts("mitmesh_ejections", names, list(ejections.items())))
        used: dict[Labels, float] = {}
        for service, limit, count in picking.limits.usage():
            used[service or UNCLAIMED, limit] = used.get((service or UNCLAIMED, limit), 0) + count
        told = "What is under way where a circuit breaker limits it"
        picture.gauges.append(("mitmesh_limit_used", told, used, ("destination_service", "limit")))

    def _endpoint(self, address: str) -> str:
        """As label: addresses that the policy does not name are without number."""
        sync = self._feed.sync
        if sync is not None and sync.snapshot is not None and sync.snapshot is not self._snapshot:
            self._snapshot = sync.snapshot
            self._addresses = addresses_of(sync.snapshot)
        return address if address in self._addresses else UNKNOWN

    def _own(self, picture: Picture) -> None:
        metrics = self._metrics
        for gauges in metrics.gauges:
            for name, told, value in gauges():
                picture.gauge(name, told, value)
        refused: dict[Labels, float] = {(table.metric,): table.refused for table in metrics.tables}
        told = "Label sets that found no room and are counted as `other`"
        picture.gauges.append(("mitmesh_label_sets_refused", told, refused, ("metric",)))
        picture.counts.append(Counts("mitmesh_metrics_errors", (), [((), float(metrics.errors))]))
        built: dict[Labels, float] = {(release(), self._feed.node): 1}
        told = "The version that runs, and this proxy's name in `mitmesh status`"
        picture.gauges.append(("mitmesh_build_info", told, built, ("version", "node")))


def _states(pool: PoolStats) -> tuple[tuple[str, int], ...]:
    return ("active", pool.open - pool.idle), ("idle", pool.idle), ("opening", pool.opening)
