"""Where an attempt connects: plainly, by TLS as the caller asks, or by mutual TLS as the policy asks."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from addons.exchange import Attempt
from addons.mtls_contexts import Contexts
from addons.mtls_outbound import NoIdentity, Outbound
from addons.origins import Origins
from control.identity.identity import Identity
from tests.flows import make_flow, pinned, snapshot
from tests.identities import Identities

POLICY = """\
service: shop
mtls: strict
endpoints: ["10.0.0.1:80"]
---
service: bare
mtls: strict
---
service: moving
mtls: permissive
endpoints: [{address: "10.0.0.2:80", mtls: true}, "10.0.0.3:80"]
---
service: open
endpoints: ["10.0.0.4:80"]
"""


@pytest.fixture(scope="module")
def identity(tmp_path_factory) -> Identity:
    return Identity.read(Identities(tmp_path_factory.mktemp("ca")).of("web").folder)


def outbound(identity: Identity | None) -> Outbound:
    contexts = None if identity is None else Contexts(identity, "mesh")
    holder = SimpleNamespace(identity=identity)
    return Outbound(lambda: "mesh", holder, lambda: contexts, lambda *_: None)  # type: ignore[arg-type]


def attempt_at(service: str, inbound: bool = False, number: int = 0):
    """A flow, its exchange and an attempt at the service's endpoint of that number, or where the caller named it."""
    policy = snapshot(POLICY)
    flow = make_flow(f"http://{service}:81/")
    exchange = pinned(flow, policy, inbound=inbound)
    exchange.service = service
    route = exchange.route = policy.services[service].own
    endpoints = [endpoint for share in route.shares for endpoint in share.endpoints]
    endpoint = endpoints[number] if endpoints and not inbound else None
    host, port = (endpoint.host, endpoint.port) if endpoint else ("127.0.0.1", 81)
    return flow, exchange, Attempt(1, endpoint, host, port)


@pytest.mark.parametrize(
    ("service", "number", "peer", "without_identity"),
    [
        ("shop", 0, "spiffe://mesh/service/shop", "spiffe://mesh/service/shop"),
        ("bare", 0, "spiffe://mesh/service/bare", "spiffe://mesh/service/bare"),
        ("moving", 0, "spiffe://mesh/service/moving", ""),
        ("moving", 1, "", ""),
        ("open", 0, "", ""),
    ],
)
def test_what_is_reached_by_mutual_tls(identity, service, number, peer, without_identity):
    for have, expected in ((identity, peer), (None, without_identity)):
        origin = Origins(outbound(have)).of(*attempt_at(service, number=number))
        assert (origin.tls, origin.peer) == (expected != "", expected)
        assert origin.generation == (identity.generation if have and peer else 0)


@pytest.mark.parametrize("service", ["shop", "bare", "moving"])
def test_the_application_behind_an_inbound_port_is_reached_plainly(identity, service):
    assert not Origins(outbound(identity)).of(*attempt_at(service, inbound=True)).tls


def test_an_origin_is_kept_until_the_identity_is_another(identity):
    known = outbound(identity)
    origins = Origins(known)
    first = origins.of(*attempt_at("shop"))
    assert origins.of(*attempt_at("shop")) is first
    known.renew()
    assert origins.of(*attempt_at("shop")) is not first


def test_services_at_one_address_have_origins_of_their_own(identity):
    known = outbound(identity)
    one, two = (known.origin("10.0.0.1", 80, service, "strict") for service in ("one", "two"))
    assert one != two


def test_without_the_feature_nothing_is_sent_plainly():
    with pytest.raises(RuntimeError):
        Origins(None).of(*attempt_at("shop"))


def test_without_an_identity_no_connection_is_secured_and_it_says_what_to_do(identity):
    origin = outbound(None).origin("10.0.0.1", 80, "shop", "strict")
    assert origin is not None
    with pytest.raises(
        NoIdentity, match=r"shop takes mutual TLS alone .* give it one by --set mesh_identity"
    ):
        outbound(None).tls(origin)


def test_an_identity_that_has_expired_is_not_shown(tmp_path: Path):
    made = Identities(tmp_path)
    expired = Identity.read(made.at("web", "late", -60, 30).folder)
    known = outbound(expired)
    origin = known.origin("10.0.0.1", 80, "shop", "strict")
    assert origin is not None
    with pytest.raises(NoIdentity, match="this proxy's own certificate has expired"):
        known.tls(origin)
