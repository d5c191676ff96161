"""What the engine refused gets the exchange that the log and the metrics tell of."""

import time

import pytest

from addons.exchange import exchange_of
from addons.metrics import Metrics
from addons.metrics_labels import REQUESTS
from addons.peer import Peer, note_peer
from addons.policy_feed import PolicyFeed
from addons.refused import Refused
from tests.flows import loaded, make_answer, make_flow, snapshot
from tests.test_policy_feed import Stub


def refused(policy=None, status=400, flag="DPE", inbound=False, peer=None, **options):
    """The flow, and its exchange."""
    with loaded() as context:
        feed = PolicyFeed()
        context.master.addons.add(feed)
        flow = make_flow()
        if inbound:
            flow.client_conn.sockname = ("10.0.0.1", 8000)
            options["mesh_inbound"] = ["8000"]
        context.configure(feed, **options)
        feed.sync = None if policy is None else Stub(snapshot(policy, revision=7))
        if peer is not None:
            note_peer(flow.client_conn, peer)
        flow.timestamp_created = time.time() - 20
        flow.response = make_answer(status, b"no", x_mesh_flag=flag)
        Refused(feed).mesh_refused(flow)
        return flow, exchange_of(flow)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, (None, "", "", False)),
        ({"policy": "service: web"}, (7, "", "", False)),
        ({"policy": "service: web", "mesh_service": "shop"}, (7, "", "shop", False)),
        ({"policy": "service: web", "mesh_service": "shop", "inbound": True}, (7, "shop", "", True)),
        # A client that may not come at all is told what it was told.
        (
            {"policy": "service: shop\nmtls: strict", "mesh_service": "shop", "inbound": True},
            (7, "shop", "", True),
        ),
    ],
)
def test_whose_it_is(options, told):
    flow, exchange = refused(**options)
    revision = exchange.snapshot.revision if exchange.snapshot else None
    assert (revision, exchange.service, exchange.source, exchange.inbound) == told
    assert (flow.response.status_code, flow.response.content, exchange.flags) == (400, b"no", ["DPE"])


def test_a_caller_that_proved_who_it_is():
    peer = Peer("spiffe://mesh/service/cart", "cart", "TLSv1.3", b"By=x")
    _, exchange = refused(policy="service: shop", mesh_service="shop", inbound=True, peer=peer)
    assert (exchange.peer, exchange.source, exchange.tls) == (peer.spiffe_id, "cart", "TLSv1.3")


def test_it_began_when_its_first_byte_came():
    _, exchange = refused(status=408, flag="SI")
    assert exchange.flags == ["SI"]
    assert 20 <= time.perf_counter() - exchange.started < 40


def test_it_is_counted():
    metrics = Metrics()
    for status, flag in ((400, "DPE"), (400, "DPE"), (408, "SI")):
        flow, _ = refused("service: web", status, flag, mesh_service="shop")
        metrics.mesh_refused(flow)
    metrics.settle()
    found = {}
    for each in metrics.requests.all():
        named = dict(zip(REQUESTS, each.labels, strict=True))
        found[named["response_code"], named["response_flags"]] = each.count
        assert (named["source_workload"], named["destination_service"]) == ("shop", "unknown")
    assert found == {("400", "DPE"): 2, ("408", "SI"): 1}
