"""Copies of requests: what is sent where, what is dropped, and that nothing ever waits for one."""

import asyncio
import random

import pytest
from mitmproxy.addons.proxyserver import Proxyserver

from addons import mirror as module
from addons.engine.carrier import Carrier, load
from addons.engine.incoming import Incoming
from addons.engine.upload import Upload
from addons.forwarder import Forwarder
from addons.mirror import Mirror
from addons.routing import Routing
from tests.flows import loaded, make_answer, make_flow, pinned
from tests.upstream import Upstream, saying


def told(mirror):
    (counts,) = mirror.counts()
    return {labels[-1]: int(value) for labels, value in counts.values}


async def until(look):
    async with asyncio.timeout(20):
        while not look():
            await asyncio.sleep(0.005)


def asked(address, more="", **request):
    flow = make_flow(**request)
    pinned(
        flow,
        f"service: web\nendpoints: {{v1: ['10.0.0.1:80'], v2: ['{address}']}}\nto: v1\nmirror: {{to: v2{more}}}",
    )
    assert Routing().request(flow) is None
    return flow


@pytest.fixture
async def mirror():
    forwarder = Forwarder()
    made = Mirror(forwarder, random.Random(1))
    with loaded(Proxyserver(), forwarder):
        yield made


async def test_a_copy_with_its_body_and_a_host_that_tells(mirror):
    with Upstream(saying(500, "x" * 300_000)) as upstream:
        for number in range(3):
            flow = asked(
                upstream.address,
                url=f"http://web/a{number}?b=c",
                method="POST",
                headers={"x-user": "ann"},
                body=b"hello",
            )
            mirror.request(flow)
            assert flow.response is None
            assert flow.request.host_header == "web"
            await until(lambda count=number + 1: told(mirror) == {"answered": count})
    assert upstream.targets() == ["/a0?b=c", "/a1?b=c", "/a2?b=c"]
    sent = upstream.requests[0]
    assert (sent.method, sent.body, sent.header("host"), sent.header("x-user")) == (
        "POST",
        b"hello",
        "web-shadow",
        "ann",
    )
    assert sent.header("x-request-id")
    assert upstream.connections == 1, "the answers are read to their ends"
    assert told(mirror) == {"answered": 3}


async def test_what_cannot_be_sent_is_counted_and_nothing_else(mirror):
    mirror.request(asked("127.0.0.1:1"))
    await until(lambda: told(mirror) == {"failed": 1})


async def test_copies_that_hang_are_bounded_and_given_up(mirror, monkeypatch):
    monkeypatch.setattr(module, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(module, "LONGEST", 0.2)

    def hang(request, connection):
        connection.recv(1)

    with Upstream(hang) as upstream:
        for _ in range(5):
            mirror.request(asked(upstream.address))
        assert told(mirror) == {"dropped": 3}
        await until(lambda: told(mirror) == {"dropped": 3, "failed": 2})
        assert len(mirror._active) == 0
        mirror.request(asked(upstream.address))
        assert told(mirror)["dropped"] == 3


async def test_bodies_are_bounded_all_together(mirror, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with Upstream() as upstream:
        for _ in range(3):
            mirror.request(asked(upstream.address, method="POST", body=b"a" * 6))
        await until(lambda: told(mirror) == {"dropped": 2, "answered": 1})
        mirror.request(asked(upstream.address, method="POST", body=b"a" * 6))
        await until(lambda: told(mirror) == {"dropped": 2, "answered": 2})


async def test_a_body_that_streams_has_no_copy(mirror):
    with Upstream() as upstream:
        passed = asked(upstream.address)
        passed.mesh.streamed = True
        mirror.request(passed)
        for upgrade in (True, False):
            flow = asked(upstream.address)
            incoming = Incoming(b"POST", b"/", b"HTTP/1.1", (), -1, False, upgrade)
            load(flow, carrier := Carrier(incoming, None))
            if not upgrade:
                carrier.upload = Upload(incoming, True)
            mirror.request(flow)
        await asyncio.sleep(0)
    assert told(mirror) == {"streamed": 3}
    assert upstream.requests == []


async def test_what_is_answered_or_not_chosen_has_no_copy(mirror):
    answered = asked("127.0.0.1:1")
    answered.response = make_answer(429)
    mirror.request(answered)
    mirror.request(asked("127.0.0.1:1", ", percent: 0"))
    plain = make_flow()
    pinned(plain, "service: web")
    assert Routing().request(plain) is None
    mirror.request(plain)
    mirror.request(make_flow())
    assert told(mirror) == {}
