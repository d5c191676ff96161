"""Who calls, at an inbound port: by the certificate alone, and told to the application in Envoy's header."""

import pytest

from addons.caller import identify
from addons.peer import Peer, note_peer
from tests.flows import make_flow, pinned

WEB = Peer("spiffe://mesh/service/web", "web", "TLSv1.3", b"By=spiffe://mesh/service/shop;Hash=ab;URI=spiffe://mesh/service/web")  # fmt: skip
STRICT = "service: shop\nmtls: strict\n"


def arrive(policy: str, peer: Peer | None, **headers: str):
    flow = make_flow(headers={name.replace("__", "-"): value for name, value in headers.items()})
    if peer is not None:
        note_peer(flow.client_conn, peer)
    exchange = pinned(flow, policy, inbound=True)
    exchange.service = "shop"
    identify(flow, exchange)
    return flow, exchange


def forwarded(flow) -> list[str]:
    return [
        value.decode()
        for name, value in flow.request.headers.fields
        if name.lower().replace(b"_", b"-") == b"x-forwarded-client-cert"
    ]


@pytest.mark.parametrize("policy", [STRICT, "", "service: shop\nmtls: permissive\n"])
def test_the_certificate_names_the_caller(policy):
    flow, exchange = arrive(policy, WEB, X__Forwarded__Client__Cert="URI=spiffe://mesh/service/admin")
    assert (exchange.peer, exchange.source, exchange.tls) == (WEB.spiffe_id, "web", "TLSv1.3")
    assert forwarded(flow) == [WEB.forwarded.decode()]
    assert flow.response is None


@pytest.mark.parametrize(
    "name", ["x-forwarded-client-cert", "X-Forwarded-Client-Cert", "X_FORWARDED_CLIENT_CERT", "x-Forwarded_client-cert"]
)  # fmt: skip
def test_nobody_names_himself_by_the_header(name):
    flow, exchange = arrive(
        "", None, **{name.replace("-", "__"): "URI=spiffe://mesh/service/web", "x__other": "1"}
    )
    assert forwarded(flow) == []
    assert flow.request.headers["x-other"] == "1"
    assert (exchange.peer, exchange.source, exchange.tls) == ("", "", "")


@pytest.mark.parametrize(("policy", "refused"), [(STRICT, True), ("service: shop\nmtls: permissive\n", False), ("", False), ('service: "*"\nmtls: strict\n', True)])  # fmt: skip
def test_plain_text_from_before_the_service_became_strict(policy, refused):
    flow, exchange = arrive(policy, None)
    assert (flow.response is not None) is refused
    if refused:
        assert flow.response.status_code == 403
        assert exchange.flags == ["RBAC"]
