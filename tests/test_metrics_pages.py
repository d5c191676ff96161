"""The pages as scrapers and health checks see them: real proxies of both kinds, read back by Prometheus' own parser."""

import os
import re
import signal
import socket
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from mitmproxy import exceptions
from mitmproxy.test import taddons, tflow
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from addons.certificates import Certificates
from addons.chain import chain
from addons.forwarder import Forwarder
from addons.metrics import Metrics
from addons.metrics_pages import MetricsPages
from addons.metrics_text import BOUNDS, Counts, Histogram, Picture, text_of
from addons.policy_feed import PolicyFeed
from addons.policy_sync import PolicySync
from addons.workers import WORKER
from control.histogram import BUCKETS, EDGES, bucket_of
from control.identity.trust import Trust
from control.policy.snapshot import EMPTY
from control.store import Store
from tests.conftest import free_port
from tests.mesh_process import ROOT, Client, Mesh, Proxy, confdir, curl, eventually, get, running, send
from tests.upstream import Upstream, answer, saying

LEAN = [sys.executable, "-P", str(ROOT / "addons/lean_proxy.py")]
Values = dict[tuple[str, ...], float]


def values(text: str, name: str, *labels: str) -> Values:
    """The samples of that name: values of these labels -> sum."""
    found: Values = defaultdict(float)
    for family in parse(text):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sample.labels[label] for label in labels)] += sample.value
    return dict(found)


def status(port: int, path: str) -> int:
    """Of a GET; 0: nobody listens yet."""
    try:
        return get(port, path).status
    except ConnectionRefusedError:
        return 0


class Running:
    """A proxy with an outbound, an inbound and a metrics port, in front of an upstream as service `back`."""

    def __init__(self, kind: str, folder: Path, redis: str, upstream: Upstream) -> None:
        self.outbound, self.inbound, self.metrics = free_port(), free_port(), free_port()
        self.mesh = Mesh(redis)
        modes = [f"regular@{self.outbound}", f"reverse:http://{upstream.address}@{self.inbound}"]
        options = {
            "mesh_metrics_port": str(self.metrics),
            "mesh_inbound": str(self.inbound),
            "mesh_service": "shop",
            **({"mesh_fastlane": "false"} if kind == "full" else {}),
        }
        if kind == "lean":
            settings = {
                "mesh_redis": redis,
                "confdir": str(confdir()),
                "mesh_node": "lean",
                "mesh_access_log": str(folder / "access.log"),
                **options,
            }
            command = [
                *LEAN,
                *(part for mode in modes for part in ("--mode", mode)),
                *("--listen-host", "127.0.0.1"),
                *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
            ]
            self.proxy = Proxy(folder, redis, port=self.outbound, command=command, node="lean")
        else:
            self.proxy = Proxy(folder, redis, port=self.outbound, modes=modes, options=options)

    def apply(self, text: str) -> None:
        self.proxy.in_force(self.mesh, self.mesh.apply(text))

    def scrape(self) -> str:
        got = get(self.metrics, "/metrics")
        assert (got.status, got.header("content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
        return got.text


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(saying(200, "hello")) as running:
        yield running


@pytest.fixture(params=["lean", "fast", "full"])
def proxy(request, tmp_path, redis_url, upstream) -> Iterator[Running]:
    started = Running(request.param, tmp_path / "proxy", redis_url, upstream)
    with running(started.proxy):
        eventually(lambda: status(started.metrics, "/readyz") == 200)
        yield started


def test_everything_that_happened_is_counted_once(proxy: Running, upstream: Upstream) -> None:
    dead = free_port()
    proxy.apply(
        f"""\
        service: back
        endpoints: {{v1: ["{upstream.address}"]}}
        routes: [{{name: bad, match: {{path: /bad}}, faults: [{{abort: 503, first: 1}}], retry: {{attempts: 2, on: [5xx]}}}}]
        ---
        service: dead
        endpoints: ["127.0.0.1:{dead}"]
        """
    )
    out = proxy.outbound
    for _ in range(5):
        assert get(out, "http://back/").body == b"hello"
    assert send(out, "POST", "http://back/", b"12345").status == 200
    assert get(out, "http://back/bad").header("x-mesh-attempts") == "2"
    assert get(out, "http://dead/").flag == "UF"
    assert get(out, f"http://{upstream.address}/").body == b"hello"
    assert get(proxy.inbound, "/").body == b"hello"
    for _ in range(3):
        assert curl("-x", f"127.0.0.1:{out}", "http://mesh.local/healthz").stdout == "ok\n"

    text = curl("-x", f"127.0.0.1:{out}", "http://mesh.local/metrics").stdout
    names = ("reporter", "source_workload", "destination_service", "route", "response_code", "response_flags")
    assert values(text, "mitmesh_requests_total", *names) == {
        ("source", "shop", "back", "", "200", "-"): 6,
        ("source", "shop", "back", "bad", "200", "FI"): 1,
        ("source", "shop", "dead", "", "503", "UF"): 1,
        ("source", "shop", "PassthroughCluster", "", "200", "-"): 1,
        ("destination", "unknown", "shop", "", "200", "-"): 1,
    }
    names = ("destination_service", "endpoint", "response_code", "error", "retry", "injected")
    assert values(text, "mitmesh_attempts_total", *names) == {
        ("back", upstream.address, "200", "-", "false", "false"): 6,
        ("back", upstream.address, "503", "-", "false", "true"): 1,
        ("back", upstream.address, "200", "-", "true", "false"): 1,
        ("dead", f"127.0.0.1:{dead}", "0", "connect-failure", "false", "false"): 1,
        ("PassthroughCluster", "unknown", "200", "-", "false", "false"): 1,
        ("shop", "unknown", "200", "-", "false", "false"): 1,
    }
    assert values(text, "mitmesh_faults_injected_total", "fault") == {("abort",): 1}
    assert values(text, "mitmesh_request_duration_milliseconds_count") == {(): 10}
    assert values(text, "mitmesh_upstream_duration_milliseconds_count") == {(): 9}
    assert values(text, "mitmesh_request_bytes_total", "destination_service")["back",] == 5
    assert values(text, "mitmesh_response_bytes_total", "destination_service", "route")["back", ""] == 30
    assert values(text, "mitmesh_metrics_errors_total") == {(): 0}
    assert values(text, "mitmesh_redis_connected") == {(): 1}
    assert values(text, "mitmesh_policy_revision") == {(): 1}
    assert 0 <= values(text, "mitmesh_policy_age_seconds")[()] < 60
    connections = values(text, "mitmesh_upstream_connections", "endpoint", "state")
    assert sum(connections.values()) >= 1
    assert {endpoint for endpoint, _ in connections} <= {upstream.address, "unknown"}
    # Neither the scrape nor the health checks are in the log.
    assert len(eventually(lambda: proxy.proxy.lines() if len(proxy.proxy.lines()) >= 10 else [])) == 10


def test_an_answer_that_breaks_off_or_whose_caller_leaves_is_counted_once(
    proxy: Running, upstream: Upstream
) -> None:
    def half(request, connection):
        connection.sendall(answer(200, b"x" * 3_000_000)[:2_000_000])

    def silent(request, connection):
        connection.recv(1)

    proxy.apply(f"service: back\nendpoints: ['{upstream.address}']")
    upstream.reply = half
    cut = curl("-x", f"127.0.0.1:{proxy.outbound}", "-o", "/dev/null", "http://back/")
    assert cut.returncode != 0
    upstream.reply = silent
    with socket.create_connection(("127.0.0.1", proxy.outbound)) as client:
        client.sendall(b"GET http://back/ HTTP/1.1\r\nhost: back\r\n\r\n")
        eventually(lambda: len(upstream.requests) == 2)
    labels = ("response_code", "response_flags")
    found = eventually(
        lambda: (
            seen
            if sum((seen := values(proxy.scrape(), "mitmesh_requests_total", *labels)).values()) >= 2
            else {}
        )
    )
    assert sum(found.values()) == 2
    assert {flags for _, flags in found} == {"UC", "DC"}
    assert found.get(("200", "UC")) == 1


def test_what_a_circuit_breaker_does_is_seen(proxy: Running, upstream: Upstream) -> None:
    dead = f"127.0.0.1:{free_port()}"
    proxy.apply(
        f"""\
        service: back
        endpoints: ["{upstream.address}", "{dead}"]
        retry: 2
        circuit_breaker: {{consecutive_failures: 2, open_for: 1h, max_open: 1h, limits: {{requests: 5}}}}
        """
    )
    for _ in range(8):
        assert get(proxy.outbound, "http://back/").status == 200
    text = proxy.scrape()
    labels = ("destination_service", "endpoint")
    assert values(text, "mitmesh_endpoints_ejected", *labels, "state") == {("back", dead, "open"): 1}
    assert values(text, "mitmesh_ejections_total", *labels) == {("back", dead): 1}
    assert set(values(text, "mitmesh_limit_used").values()) <= {0}


def test_pages_that_are_not_there(proxy: Running) -> None:
    for port, base in ((proxy.outbound, "http://mesh.local"), (proxy.metrics, "")):
        assert get(port, f"{base}/").text == "here are /metrics, /healthz, /readyz\n"
        assert get(port, f"{base}/metricsx").status == 404
        assert get(port, f"{base}/healthz?verbose").status == 200
        assert send(port, "POST", f"{base}/metrics", b"x").status == 405
        # One after the other: a body would be taken for the beginning of the next answer.
        with Client(port) as client:
            for path, code, length in (("/healthz", 200, "3"), ("/", 404, "37"), ("/healthz", 200, "3")):
                head = client.send("HEAD", f"{base}{path}")
                assert (head.status, head.body, head.header("content-length")) == (code, b"", length)


def test_openmetrics_where_it_is_asked_for(proxy: Running) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    for port, url in ((proxy.outbound, "http://mesh.local/metrics"), (proxy.metrics, "/metrics")):
        got = get(port, url, accept=accept)
        assert (got.header("content-type") or "").startswith("application/openmetrics-text")
        assert "mitmesh_policy_revision" in {family.name for family in parse_openmetrics(got.text)}


def test_the_inbound_port_answers_for_mesh_local_too(
    tmp_path: Path, redis_url: str, upstream: Upstream
) -> None:
    for kind in ("lean", "fast"):
        started = Running(kind, tmp_path / kind, redis_url, upstream)
        with running(started.proxy):
            got = eventually(lambda started=started: get(started.inbound, "/readyz", host="mesh.local"))
            assert got.text.split(":")[0] in ("ready", "not ready")
            assert get(started.inbound, "/readyz").body == b"hello"


def test_no_policy_is_alive_but_not_ready(tmp_path: Path, upstream: Upstream) -> None:
    started = Running("lean", tmp_path, f"redis://127.0.0.1:{free_port()}/0", upstream)
    with running(started.proxy):
        eventually(lambda: status(started.metrics, "/healthz") == 200)
        assert get(started.metrics, "/healthz").text == "ok\n"
        assert get(started.outbound, "http://mesh.local/healthz").text == "ok\n"
        got = get(started.metrics, "/readyz")
        assert (got.status, got.text) == (503, "not ready: no policy in force yet\n")
        assert get(started.outbound, "http://back/").flag == "NP"
        text = started.scrape()
        assert values(text, "mitmesh_policy_revision") == {(): -1}
        assert values(text, "mitmesh_redis_connected") == {(): 0}
        labels = ("destination_service", "response_flags")
        assert values(text, "mitmesh_requests_total", *labels) == {("unknown", "NP"): 1}


def test_a_draining_proxy_is_not_ready(tmp_path: Path, redis_url: str, upstream: Upstream) -> None:
    def silent(request, connection):
        connection.recv(1)

    upstream.reply = silent
    started = Running("lean", tmp_path, redis_url, upstream)
    with running(started.proxy):
        eventually(lambda: status(started.metrics, "/readyz") == 200)
        with socket.create_connection(("127.0.0.1", started.outbound)) as client:
            url = f"http://{upstream.address}/"
            client.sendall(f"GET {url} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            eventually(lambda: upstream.requests)
            started.proxy.signal(signal.SIGTERM)
            got = eventually(
                lambda: answered if (answered := get(started.metrics, "/readyz")).status == 503 else None
            )
            assert got.text == "not ready: draining, no new connections are taken\n"
            assert get(started.metrics, "/healthz").status == 200
        assert started.proxy.process is not None
        assert started.proxy.process.wait(20) == 0


def test_each_worker_has_a_port(tmp_path: Path, redis_url: str) -> None:
    port, metrics = free_port(), free_port()
    options = {
        "mesh_redis": redis_url,
        "mesh_metrics_port": str(metrics),
        "mesh_access_log": "",
        "confdir": str(confdir()),
    }
    sets = [part for name, value in options.items() for part in ("--set", f"{name}={value}")]
    command = [*LEAN, "--workers", "2", "--mode", f"regular@{port}", "--listen-host", "127.0.0.1", *sets]
    with running(Proxy(tmp_path, redis_url, port=port, command=command)):
        seen: set[str] = set()
        for each in (metrics, metrics + 1):
            eventually(lambda each=each: status(each, "/readyz") == 200)
            seen |= {node for (node,) in values(get(each, "/metrics").text, "mitmesh_build_info", "node")}
        with pytest.raises(OSError, match="refused"):
            get(metrics + 2, "/healthz")
        assert len(seen) == 2
        assert seen == set(Mesh(redis_url).nodes())


@pytest.mark.parametrize("kind", ["lean", "fast"])
def test_a_metrics_port_that_is_taken_ends_the_start(
    kind: str, tmp_path: Path, redis_url: str, upstream: Upstream
) -> None:
    started = Running(kind, tmp_path, redis_url, upstream)
    with socket.create_server(("127.0.0.1", started.metrics)):
        process = started.proxy.launch().process
        assert process is not None
        try:
            assert process.wait(40) == 1
        finally:
            started.proxy.kill()
    console = started.proxy.console()
    assert f"mesh_metrics_port: cannot listen on 127.0.0.1:{started.metrics}: " in console
    assert "Traceback" not in console


# In this process


@pytest.fixture
def pages() -> MetricsPages:
    return MetricsPages(Metrics(), PolicyFeed(), Forwarder())


async def test_readiness_says_why_not(pages: MetricsPages) -> None:
    async def readyz() -> tuple[int, bytes]:
        page = await pages.page("GET", "/readyz", "")
        return page.status, page.body

    assert await readyz() == (503, b"not ready: no policy in force yet\n")
    pages._feed.sync = sync = PolicySync(Store("redis://127.0.0.1:1/0"), lambda: None)  # type: ignore[arg-type, return-value]
    sync.error = "refused revision 3: a: bad"
    assert await readyz() == (503, b"not ready: no policy in force yet: refused revision 3: a: bad\n")
    sync.snapshot = EMPTY
    assert await readyz() == (200, b"ready: revision 0 in force\n")
    pages.mesh_drain()
    assert (await readyz())[0] == 503


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("mesh.local", True), ("Mesh.Local", True), ("mesh.locale", False), ("mash.local", False), ("", False)],
)
async def test_which_requests_are_ours(pages: MetricsPages, host: str, is_ours: bool) -> None:
    flow = tflow.tflow()
    flow.request.host = host
    flow.request.path = "/healthz"
    waiting = pages.requestheaders(flow)
    assert (waiting is not None) is is_ours
    if waiting is not None:
        with pytest.raises(exceptions.AddonHalt):
            await waiting
        assert flow.response is not None
        assert flow.response.text == "ok\n"


async def test_the_port_may_change_while_it_runs(
    pages: MetricsPages, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    monkeypatch.delenv(WORKER, raising=False)

    async def answers(port: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        said = await reader.read()
        writer.close()
        return said.endswith(b"ok\n")

    first, second = free_port(), free_port()
    with taddons.context(pages) as context:
        context.configure(pages, listen_host="127.0.0.1", mesh_metrics_port=first)
        pages.running()
        assert await answers(first)
        context.configure(pages, mesh_metrics_port=second)
        assert await answers(second)
        assert not await answers(first)
        with (
            socket.create_server(("127.0.0.1", first)),
            pytest.raises(exceptions.OptionsError, match="choose another port"),
        ):
            context.configure(pages, mesh_metrics_port=first)
        assert await answers(second)
        context.configure(pages, mesh_metrics_port=0)
        assert not await answers(second)
        monkeypatch.setenv(WORKER, "2")
        context.configure(pages, mesh_metrics_port=second - 1)
        assert await answers(second)
        pages.done()
        assert not await answers(second)


# The text


def test_every_bound_that_prometheus_is_told_is_a_bucket_of_ours() -> None:
    assert set(BOUNDS) <= set(EDGES)
    assert list(BOUNDS) == sorted(BOUNDS)


def test_a_histogram_is_read_back_as_it_was_counted() -> None:
    buckets = [0] * BUCKETS
    lengths = [0.001, 0.1, 0.2, 1.0, 1.01, 249.0, 250.0, 251.0, 100_000.0, 5e5, 1e9]
    for length in lengths:
        buckets[bucket_of(length)] += 1
    name = "mitmesh_request_duration_milliseconds"
    labels = ('a"b\\c\nd', "ü")
    picture = Picture(histograms=[Histogram(name, ("x", "y"), [(labels, buckets, 12.5)])])
    body, _ = text_of(picture, "")
    (family,) = [family for family in parse(body.decode()) if family.name == name]
    assert family.type == "histogram"
    told = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    assert all((sample.labels["x"], sample.labels["y"]) == labels for sample in family.samples)
    for le, count in told.items():
        assert count == sum(length <= float(le) for length in lengths), le
    assert len(told) == len(BOUNDS) + 1
    rest = {
        sample.name.removeprefix(name): sample.value
        for sample in family.samples
        if "_bucket" not in sample.name
    }
    assert rest == {"_count": len(lengths), "_sum": 12.5}


def test_a_counter_without_label_sets_is_told_as_a_family() -> None:
    body, _ = text_of(Picture(counts=[Counts("mitmesh_requests", ("a",), [])]), "")
    assert "# TYPE mitmesh_requests_total counter" in body.decode()


async def test_the_docs_name_every_metric_and_its_labels() -> None:
    """docs/metrics.md's table against what all features together tell."""
    features = chain()
    (pages,) = [feature for feature in features if isinstance(feature, MetricsPages)]
    (certificates,) = [feature for feature in features if isinstance(feature, Certificates)]
    pages._photographer._metrics.policy_since = 0.0
    certificates._trust = Trust("mesh", [])
    picture = pages._photographer.take()
    told = {f"{counts.metric}_total": set(counts.names) for counts in picture.counts}
    told |= {histogram.metric: set(histogram.names) for histogram in picture.histograms}
    told |= {name: set(names) for name, _, _, names in picture.gauges}
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(mitmesh_\w+)` \| (\w+) \| (.*?) ?\|$", page, flags=re.MULTILINE)
    documented = {
        name: set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", labels))) for name, _, labels in rows
    }
    assert documented == told
    explained = page.partition("### Labels")[2].partition("### How many")[0]
    for label in set().union(*told.values()) - {"state", "metric", "version", "node"}:
        assert re.search(rf"^\|.*`{label}`.*\|.*\|$", explained, flags=re.MULTILINE), label
    assert os.environ.get(WORKER) is None
