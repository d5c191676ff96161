"""A flow that an addon, or a person at mitmweb, holds back: what is made of it meanwhile is what is routed and sent."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import guarded
from tests.mesh_process import eventually, send
from tests.upstream import Upstream, saying

# Holds back what x-hold says, in the event that it names, until somebody asks for /release.
SCRIPT = """
import json
from mitmproxy import http

def holding(event):
    def hook(self, flow):
        asked = flow.request.headers
        if asked.get("x-hold") == event:
            flow.intercept()
            self.held.append(flow)
        if flow.request.path == "/streamed" and event == "requestheaders":
            flow.request.stream = True
    return hook

class Holding:
    def __init__(self):
        self.held = []
        self.updates = 0

    requestheaders = holding("requestheaders")

    def request(self, flow):
        if flow.request.path == "/state":
            flow.response = http.Response.make(200, json.dumps([len(self.held), self.updates]))
        elif flow.request.path.startswith("/release"):
            self.release(flow)
        else:
            holding("request")(self, flow)

    def update(self, flows):
        self.updates += sum(flow in self.held and flow.intercepted for flow in flows)

    def release(self, flow):
        held = self.held.pop()
        self.updates = 0
        if "to" in flow.request.query:
            held.request.path = "/edited"
            held.request.host, port = flow.request.query["to"].split(":")
            held.request.port = int(port)
        if "answer" in flow.request.query:
            held.response = http.Response.make(201, b"by hand")
        held.resume()
        if "kill" in flow.request.query:
            # Not before: mitmproxy would not notice.
            held.kill()
        flow.response = http.Response.make(204)

addons = [Holding()]
"""
REQUESTS = [
    ("request", "GET", "/held", None),
    ("request", "POST", "/held", b"data"),
    ("requestheaders", "GET", "/held", None),
    ("requestheaders", "POST", "/streamed", b"data" * 50_000),
]

world = guarded.world


@pytest.fixture
def named():
    """What the client asks for."""
    with Upstream(saying(200, "named")) as upstream:
        yield upstream


@pytest.fixture
def edited():
    """What somebody makes of it."""
    with Upstream(saying(200, "edited")) as upstream:
        yield upstream


@pytest.fixture
def held(world, named, edited):
    """Start a request that is held back; returns once it is, and somebody who shows flows was told."""
    world.serve(f"hosts: ['{named.address}']", named.address)
    world.serve(f"hosts: ['{edited.address}']\nresponse_headers: {{set: {{x-by: policy}}}}", edited.address)
    with ThreadPoolExecutor(1) as pool:

        def start(event, method, path, body):
            sent = pool.submit(
                send, world.proxy.port, method, f"http://{named.address}{path}", body, {"x-hold": event}
            )
            eventually(lambda: json.loads(world.get("http://state.test/state").text) == [1, 1])
            assert named.requests == []
            return sent

        yield start


@pytest.mark.parametrize(("event", "method", "path", "body"), REQUESTS)
def test_what_was_made_of_it_is_routed(world, named, edited, held, event, method, path, body):
    sent = held(event, method, path, body)
    world.get(f"http://state.test/release?to={edited.address}")
    got = sent.result()
    assert (got.status, got.text, got.header("x-by")) == (200, "edited", "policy")
    assert named.requests == []
    assert [(each.method, each.target, each.body) for each in edited.requests] == [
        (method, "/edited", body or b"")
    ]


@pytest.mark.parametrize(("event", "method", "path", "body"), REQUESTS)
def test_what_is_answered_meanwhile_goes_nowhere(world, named, held, event, method, path, body):
    sent = held(event, method, path, body)
    world.get("http://state.test/release?answer=yes")
    got = sent.result()
    assert (got.status, got.text) == (201, "by hand")
    assert named.requests == []


@pytest.mark.parametrize(("event", "method", "path", "body"), REQUESTS)
def test_what_is_killed_meanwhile_goes_nowhere(world, named, held, event, method, path, body):
    sent = held(event, method, path, body)
    world.get("http://state.test/release?kill=yes")
    with pytest.raises(ConnectionError):
        sent.result()
    assert named.requests == []
