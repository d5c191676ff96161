"""A line of the log: valid JSON whatever is in it, with every field, and which exchanges get one."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import exceptions
from mitmproxy import flow as mitmproxy_flow

from addons.access_log import AccessLog, line
from addons.routing import Routing
from tests.flows import attempted, loaded, make_answer, make_flow, pinned

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
    exchange.wall = 1.5
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
