"""A line of the log: valid JSON whatever is in it, with every field, and which exchanges get one."""

import json
import random
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import exceptions
from mitmproxy import flow as mitmproxy_flow

from addons import access_log
from addons.access_log import AccessLog, line
from addons.routing import Routing
from control.policy.facts import RequestFacts
from tests.flows import attempted, loaded, make_answer, make_flow, pinned, snapshot

FIELDS = [
    "time", "node", "service", "source", "peer", "tls", "method", "host", "path", "protocol", "status", "flags", "bytes_in",
    "bytes_out", "duration_ms", "upstream_ms", "attempts", "route", "version", "revision", "request_id", "user_agent",
]  # fmt: skip
POLICY = """\
service: web
endpoints: {v1: ["10.0.0.1:80"], v2: ["10.0.0.2:80"]}
routes: [{name: canary, match: {path: /c}, to: v2}]
"""


def routed(url="http://web/c", policy=POLICY, **more):
    flow = make_flow(url, **more)
    exchange = pinned(flow, policy, source="shop")
    Routing(random.Random(1)).request(flow)
    return flow, exchange


def test_every_field_in_its_order():
    flow, exchange = routed(
        method="PUT", body=b"12345", headers={"user-agent": "test/1", "x-request-id": "r-1"}
    )
    flow.response = make_answer(201, b"123")
    flow.timestamp_created = 1.5
    started = exchange.started
    attempted(exchange, None, "reset", started=started, ended=started + 0.25, detail="gone")
    attempted(exchange, 201, started=started + 0.5, ended=started + 0.75, injected=True)
    exchange.flag("FI")
    exchange.flag("URX")
    said = json.loads(line(flow, exchange))
    assert list(said) == FIELDS
    assert said.pop("duration_ms") >= 0
    assert said == {
        "time": "1970-01-01T00:00:01.500+00:00", "node": "node-1", "service": "web", "source": "shop",
        "peer": None, "tls": None,
        "method": "PUT", "host": "web:80", "path": "/c", "protocol": "HTTP/1.1", "status": 201, "flags": "FI,URX",
        "bytes_in": 5, "bytes_out": 3, "upstream_ms": 500.0,
        "attempts": [
            {"endpoint": "10.0.0.1:80", "ms": 250.0, "error": "reset", "detail": "gone"},
            {"endpoint": "10.0.0.1:80", "ms": 250.0, "status": 201, "injected": True},
        ],
        "route": "canary", "version": "v2", "revision": 1, "request_id": "r-1", "user_agent": "test/1",
    }  # fmt: skip


def test_what_there_is_not_is_null():
    flow = make_flow("http://web:81/x?y")
    exchange = pinned(flow)
    exchange.snapshot = None
    said = json.loads(line(flow, exchange))
    absent = {name for name in FIELDS if said[name] is None}
    assert absent == {"peer", "tls", "status", "upstream_ms", "route", "version", "revision", "user_agent"}
    assert (said["host"], said["path"], said["flags"], said["attempts"]) == ("web:81", "/x?y", "-", [])


def test_the_next_revision_of_the_same_route_is_told():
    flow, exchange = routed()
    assert json.loads(line(flow, exchange))["revision"] == 1
    exchange.snapshot.revision = 3
    assert json.loads(line(flow, exchange))["revision"] == 3
    other = pinned(make_flow(), "", source="other")
    other.route, other.share = exchange.route, exchange.share
    other.snapshot.revision = 2
    said = json.loads(line(flow, other))
    assert (said["revision"], said["source"], said["route"]) == (2, "other", "canary")


@given(st.binary(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_no_text_breaks_a_line(agent, detail, node):
    flow, exchange = routed()
    flow.request.headers.fields += ((b"user-agent", agent),)
    flow.response = make_answer()
    attempted(exchange, None, "connect-failure", detail=detail)
    exchange.node = node
    spelled = line(flow, exchange)
    assert "\n" not in spelled
    said = json.loads(spelled)
    assert said["user_agent"].encode("utf-8", "surrogateescape") == agent
    assert (said["attempts"][0]["detail"], said["node"]) == (detail, node)


SOME = snapshot(POLICY).services["web"]
TEXTS = st.text(max_size=6) | st.sampled_from(["web", 'a"b', "\\", "\n\u2028", "x" * 2000])
BYTES = st.binary(max_size=6) | st.sampled_from([b"GET", b"HTTP/1.1", "ü".encode(), b"y" * 2000])
STATUSES = st.none() | st.sampled_from([200, 404, 503])
ATTEMPTS = st.fixed_dictionaries(
    {
        "endpoint": st.none() | st.sampled_from(SOME.own.shares[0].endpoints),
        "host": st.sampled_from(["10.0.0.1", "::1", "up"]),
        "status": STATUSES,
        "error": st.none() | st.sampled_from(["reset", "timeout"]),
        "detail": TEXTS,
        "injected": st.booleans(),
        "ended": st.floats(0, 1e6),
    }
)


def as_json(flow, exchange, status, ended):
    """What `line` is to give, by way of a dictionary."""

    def three(number):
        return f"\0{number:.3f}\0"

    facts, route, share, data = exchange.facts, exchange.route, exchange.share, flow.request.data
    where = facts or data
    agent = {name.lower(): value for name, value in data.headers.fields}.get(b"user-agent")
    last = exchange.attempts[-1].endpoint if exchange.attempts else None
    second = int(flow.timestamp_created)
    values = [
        f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{int((flow.timestamp_created - second) * 1000):03d}+00:00",
        exchange.node, exchange.service, exchange.source, exchange.peer or None, exchange.tls or None,
        data.method.decode("latin-1") or None,
        f"{where.host}:{where.port}" if where.host else None,
        facts.target if facts else flow.request.path or None,
        data.http_version.decode("latin-1"), status, ",".join(exchange.flags) or "-",
        len(data.content), len(flow.response.content) if flow.response else 0,
        three((ended - exchange.started) * 1000),
        three(sum(attempt.ms for attempt in exchange.attempts)) if exchange.attempts else None,
        [
            {"endpoint": attempt.address, "ms": three(attempt.ms)}
            | ({"error": attempt.error, "detail": attempt.detail} if attempt.error else {"status": attempt.status})
            | ({"injected": True} if attempt.injected else {})
            for attempt in exchange.attempts
        ],
        route.label if route else None,
        share and (share.version or (last and last.version)),
        exchange.snapshot.revision if exchange.snapshot else None,
        exchange.request_id,
        None if agent is None else agent.decode("utf-8", "surrogateescape"),
    ]  # fmt: skip
    text = json.dumps(dict(zip(FIELDS, values, strict=True)), ensure_ascii=False, separators=(",", ":"))
    return re.sub(r'"\\u0000([0-9.-]+)\\u0000"', r"\1", text)


@settings(max_examples=300)
@given(st.data())
def test_a_line_is_what_json_makes_of_its_fields(data):
    flow = make_flow("http://web:81/x?y", body=data.draw(st.binary(max_size=5)))
    exchange = pinned(flow)
    for name in ("node", "service", "source", "peer", "tls", "request_id"):
        setattr(exchange, name, data.draw(TEXTS))
    flow.timestamp_created = data.draw(st.floats(0, 4e9))
    exchange.route = data.draw(st.sampled_from([None, SOME.own, *SOME.routes]))
    exchange.share = data.draw(st.sampled_from([None, *SOME.own.shares, *SOME.routes[0].shares]))
    if data.draw(st.booleans()):
        exchange.facts = RequestFacts(
            "", data.draw(TEXTS), data.draw(st.integers(0, 65535)), data.draw(TEXTS), ()
        )
    if data.draw(st.booleans()):
        exchange.snapshot = None
    status = data.draw(STATUSES)
    if status is not None:
        flow.response = make_answer(status, data.draw(st.binary(max_size=5)))
    exchange.flags += data.draw(st.lists(st.sampled_from(["FI", "DI", "URX"]), max_size=3))
    if data.draw(st.booleans()):
        flow.request.data.path = b""
    flow.request.data.method, flow.request.data.http_version = data.draw(BYTES), data.draw(BYTES)
    if data.draw(st.booleans()):
        flow.request.headers.fields += ((b"User-Agent", data.draw(BYTES)),)
    exchange.started = data.draw(st.floats(0, 1e3))
    for more in data.draw(st.lists(ATTEMPTS, max_size=3)):
        if (endpoint := more["endpoint"]) is not None:
            more |= {"host": endpoint.host, "port": endpoint.port}
        attempted(exchange, started=data.draw(st.floats(0, 1e3)), **more)
    # The second time, of parts that were spelled before.
    for _ in range(2):
        spelled = line(flow, exchange)
        assert spelled == as_json(flow, exchange, status, exchange.ended)


def test_what_differs_in_one_thing_from_the_line_before_is_told():
    flow, exchange = routed(headers={"user-agent": "a/1"})
    flow.response = make_answer()
    attempted(exchange, 200, endpoint=exchange.share.endpoints[0], host="10.0.0.2")
    for thing, name, value in (
        *[(exchange, name, name) for name in ("node", "service", "source", "peer", "tls", "request_id")],
        (flow.request.data, "method", b"PUT"),
        (flow.request.data, "http_version", b"HTTP/2.0"),
        (exchange.facts, "host", "other"),
        (exchange.facts, "port", 4321),
        (exchange.facts, "target", "/other"),
        (flow.response.data, "status_code", 201),
        (exchange, "flags", ["FI"]),
        (exchange, "route", SOME.own),
        (exchange, "share", SOME.own.shares[0]),
        (exchange, "snapshot", snapshot(POLICY, revision=2)),
        (exchange.attempts[0], "status", 503),
        (exchange, "snapshot", None),
        (exchange, "share", None),
        (exchange, "route", None),
        (exchange, "facts", None),
        (flow, "response", None),
    ):
        line(flow, exchange)
        setattr(thing, name, value)
        spelled, status = line(flow, exchange), flow.response and flow.response.status_code
        assert spelled == as_json(flow, exchange, status, exchange.ended)


def test_what_is_kept_of_lines_is_bounded(monkeypatch):
    monkeypatch.setattr(access_log, "_MOST_KNOWN", 5)
    monkeypatch.setattr(access_log, "_known", {})
    monkeypatch.setattr(access_log, "_agents", {})
    for number in range(12):
        flow, exchange = routed(f"http://web{number}/c", headers={"user-agent": f"a/{number}"})
        line(flow, exchange)
        assert 1 <= len(access_log._known) <= 5
        assert 1 <= len(access_log._agents) <= 5
    before = dict(access_log._known), dict(access_log._agents)
    line(*routed("http://" + "w" * 1000, headers={"user-agent": "a" * 1000}))
    assert before == (access_log._known, access_log._agents)


@pytest.fixture
def written(tmp_path):
    """An addon that logs to a file, and what is in it after a stop."""
    path = tmp_path / "access.log"
    addon = AccessLog(random.Random(1))

    def lines() -> list[dict]:
        addon.done()
        return [json.loads(text) for text in path.read_text().splitlines()]

    with loaded(addon, mesh_access_log=str(path)):
        yield addon, lines


def test_once_for_each_exchange(written):
    addon, lines = written
    flow, _ = routed()
    flow.response = make_answer()
    addon.response(flow)
    addon.error(flow)
    addon.response(make_flow("http://not-of-the-mesh/"))
    assert len(lines()) == 1


@pytest.mark.parametrize(("said", "flags"), [("Client disconnected.", "DC"), ("anything else", "-")])
def test_a_client_that_left(written, said, flags):
    addon, lines = written
    flow, _ = routed()
    flow.error = mitmproxy_flow.Error(said)
    addon.error(flow)
    assert [(each["status"], each["flags"]) for each in lines()] == [(None, flags)]


def test_a_websocket_is_logged_at_its_end(written):
    addon, lines = written
    flow, _ = routed()
    flow.response = make_answer(101)
    flow.websocket = object()
    addon.response(flow)
    flow.websocket = None
    addon.websocket_end(flow)
    assert len(lines()) == 1


@pytest.mark.parametrize(
    ("rule", "statuses", "logged"),
    [
        ("on", [200, 500, None], 3),
        ("off", [200, 500, None], 0),
        ("{only: errors}", [200, 399, 400, 500, None], 3),
        ("{sample: 0}", [200, 500, None], 0),
        ("{sample: 0, only: errors}", [500], 0),
    ],
)
def test_which_are_logged(written, rule, statuses, logged):
    addon, lines = written
    for status in statuses:
        flow, _ = routed(policy=POLICY + f"access_log: {rule}\n")
        if status is None:
            flow.error = mitmproxy_flow.Error("x")
            addon.error(flow)
        else:
            flow.response = make_answer(status)
            addon.response(flow)
    assert len(lines()) == logged


def test_a_sample_is_drawn_from_the_random_source(written):
    addon, lines = written
    for _ in range(1000):
        flow, _ = routed(policy=POLICY + "access_log: {sample: 10}\n")
        flow.response = make_answer()
        addon.response(flow)
    # A tenth of 1000; 48 are five standard deviations.
    assert abs(len(lines()) - 100) < 48


async def test_where_it_cannot_write_it_says_so(tmp_path):
    with loaded() as context:
        addon = AccessLog()
        context.master.addons.add(addon)
        for path, why in (
            (tmp_path, "Is a directory"),
            (tmp_path / "none" / "log", "No such file or directory"),
        ):
            with pytest.raises(exceptions.OptionsError, match=f"mesh_access_log: cannot write {path}: {why}"):
                context.configure(addon, mesh_access_log=str(path))
        context.configure(addon, mesh_access_log="")


async def test_another_file_at_run_time(tmp_path):
    addon = AccessLog()
    with loaded(addon, mesh_access_log=str(tmp_path / "one")) as context:
        for name in ("one", "two"):
            context.configure(addon, mesh_access_log=str(tmp_path / name))
            flow, _ = routed()
            flow.response = make_answer()
            addon.response(flow)
        addon.done()
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("one", "two")] == [1, 1]
