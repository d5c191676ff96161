"""The metrics as families of prometheus_client, and in the text that a scraper asks for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

from addons.metrics_series import Labels
from control.histogram import EDGES

BOUNDS = (*(float(f"{digits}e{decade}") for decade in range(-1, 5) for digits in ("1", "2.5", "5")), 1e5)
"""Upper bounds of the buckets that Prometheus is told, in milliseconds: 0.1 to 100,000."""
_AT = tuple((f"{bound:g}", EDGES.index(bound)) for bound in BOUNDS)

HELP = {
    "mitmesh_requests": "Requests that are over, each once",
    "mitmesh_attempts": "Tries upstream that are over, those that retries and faults made included",
    "mitmesh_faults_injected": "Times that a fault of the policy acted on an attempt",
    "mitmesh_request_duration_milliseconds": "From a request's head to the end of its answer",
    "mitmesh_upstream_duration_milliseconds": "From the start of an attempt to the head of its answer, injected delays left out",
    "mitmesh_metrics_errors": "Exchanges that were not counted, and summaries not made, for a bug",
    "mitmesh_inbound_connections": "Connections let in at inbound ports, by mutual TLS or plainly",
    "mitmesh_tls_refused": "Connections refused for want of mutual TLS, or of trust in the peer",
    "mitmesh_mirrored_requests": "Copies of requests for another version, and what became of them",
    "mitmesh_rate_limit_unanswered": "Requests under a rate limit of the mesh for which Redis could not be asked",
    "mitmesh_ejections": "Times that a circuit breaker ejected an endpoint",
    "mitmesh_request_bytes": "Bytes of request bodies",
    "mitmesh_response_bytes": "Bytes of answers' bodies",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """One counter: label values -> count."""

    metric: str
    names: Labels
    values: list[tuple[Labels, float]]


@dataclass(frozen=True, slots=True)
class Histogram:
    """One histogram: label values, buckets, sum."""

    metric: str
    names: Labels
    values: list[tuple[Labels, list[int], float]]


@dataclass(slots=True)
class Picture:
    """All metrics at one moment: copies, which may be written out in a thread while counting goes on."""

    counts: list[Counts] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    gauges: list[tuple[str, str, dict[Labels, float], Labels]] = field(default_factory=list)
    """Name, help, values by label values, label names."""

    def gauge(self, name: str, told: str, value: float) -> None:
        self.gauges.append((name, told, {(): value}, ()))

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client wants it of a collector or registry."""
        for counts in self.counts:
            family = CounterMetricFamily(counts.metric, HELP[counts.metric], labels=counts.names)
            for labels, value in counts.values:
                family.add_metric(labels, value)
            yield family
        for histogram in self.histograms:
            metric = HistogramMetricFamily(histogram.metric, HELP[histogram.metric], labels=histogram.names)
            for labels, buckets, total in histogram.values:
                reached = list(accumulate(buckets))
                bounds = [(bound, reached[index]) for bound, index in _AT]
                metric.add_metric(labels, [*bounds, ("+Inf", reached[-1])], total)
            yield metric
        for name, told, values, names in self.gauges:
            gauge = GaugeMetricFamily(name, told, labels=names)
            for labels, value in values.items():
                gauge.add_metric(labels, value)
            yield gauge
        yield from ProcessCollector(registry=None).collect()


def text_of(picture: Picture, accept: str) -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics where `accept`, the header, asks for it, else Prometheus' own."""
    encode: Callable[[Any], bytes]
    encode, content_type = choose_encoder(accept)
    return encode(picture), content_type
