"""Mutual TLS towards services: whose certificate counts, what is sent where it does not, and both ends together."""

import contextlib
import json
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Valkey, free_port
from tests.identities import Identities
from tests.mesh_process import LANES, Answer, Mesh, Proxy, eventually, get, running, send, with_options
from tests.upstream import Upstream, saying

pytestmark = pytest.mark.timeout(180)
LARGE = b"x" * 2_000_000
"""More than mitmproxy's own lane holds back to send it by the forwarder."""


class Calling:
    """A proxy of the service `web`, another that has no certificate, and one in front of an application of `shop`."""

    def __init__(self, folder: Path, lane: dict[str, Any]) -> None:
        self.identities = Identities(folder / "identities")
        self.valkey = Valkey(folder / "valkey")
        self.mesh = Mesh(self.valkey.url)
        self.web = Proxy(
            folder / "web",
            self.valkey.url,
            **with_options(lane, mesh_service="web", mesh_identity=str(self.identities.of("web").folder)),
        )
        self.nobody = Proxy(folder / "nobody", self.valkey.url, **with_options(lane, mesh_service="web"))
        self.application = Upstream(saying(200, "hello"), port=free_port())
        self.shop_port = free_port()
        self.shop = Proxy(
            folder / "shop",
            self.valkey.url,
            port=self.shop_port,
            modes=[f"reverse:http://127.0.0.1:{self.application.port}@{self.shop_port}"],
            **with_options(
                lane,
                mesh_service="shop",
                mesh_inbound=str(self.shop_port),
                mesh_identity=str(self.identities.of("shop").folder),
            ),
        )
        self.number = 0

    def serve(self, *addresses: Any, mtls: str = "strict", more: str = "") -> str:
        """A service of its own at these addresses, as soon as both proxies know it; its name."""
        self.number += 1
        service = f"service-{self.number}"
        self.apply(f"service: {service}\nmtls: {mtls}\nendpoints: {json.dumps(addresses)}\n{more}")
        return service

    def apply(self, text: str) -> None:
        revision = self.mesh.apply(text)
        for proxy in (self.web, self.nobody, self.shop):
            proxy.in_force(self.mesh, revision)

    def refusals(self) -> list[str]:
        return re.findall(r"outbound connection to (.*) refused: (.*)", self.web.console())


@pytest.fixture(scope="module", params=LANES)
def calling(request, tmp_path_factory) -> Iterator[Calling]:
    made = Calling(tmp_path_factory.mktemp("outbound"), request.param)
    made.valkey.start()
    try:
        with made.application, running(made.web, made.nobody, made.shop):
            yield made
    finally:
        made.valkey.kill()


def call(proxy: Proxy, service: str, body: bytes | None) -> Answer:
    if body is None:
        return get(proxy.port, f"http://{service}/")
    return send(proxy.port, "POST", f"http://{service}/", body)


BODIES = [pytest.param(None, id="get"), pytest.param(LARGE, id="large")]


@pytest.mark.parametrize("body", BODIES)
def test_the_right_service_is_reached_and_its_connection_kept(calling, body):
    service = f"service-{calling.number + 1}"
    with Upstream(tls=calling.identities.of(service).server()) as upstream:
        assert calling.serve(upstream.address) == service
        for _ in range(3):
            answer = call(calling.web, service, body)
            assert (answer.status, answer.body) == (200, b"ok")
        assert len(upstream.requests) == 3
        assert upstream.requests[-1].body == (body or b"")
        if body is None:
            assert upstream.connections == 1


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("make", "why"),
    [
        pytest.param(
            lambda made, name: made.of("ratings").server(),
            "its certificate is of spiffe://mesh/service/ratings, not of spiffe://mesh/service/",
            id="wrong-service",
        ),
        pytest.param(
            lambda made, name: made.of_another_authority(name).server(), "signed by no root", id="wrong-ca"
        ),
        pytest.param(lambda made, name: made.expired(name).server(), "expired", id="expired"),
        pytest.param(lambda made, name: made.not_yet_valid(name).server(), "not valid yet", id="too-early"),
        pytest.param(lambda made, name: made.without_uri().server(), "proves no service", id="no-uri"),
        pytest.param(lambda made, name: old(made.of(name).server()), "no TLS 1.2 or newer", id="tls-1.1"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_whoever_else_is_there_gets_nothing(calling, make, why, body):
    service = f"service-{calling.number + 1}"
    with Upstream(tls=make(calling.identities, service)) as upstream:
        assert calling.serve(upstream.address) == service
        before = calling.refusals()
        answer = call(calling.web, service, body)
        assert (answer.status, answer.flag) in ((503, "UF"), (502, None)), answer
        (seen,) = eventually(lambda: calling.refusals()[len(before) :])
        assert re.search(why, seen[1]), seen
        assert f"spiffe://mesh/service/{service}" in seen[0]
        if answer.status == 503:
            assert upstream.address in answer.text
        assert upstream.requests == []


class Plain(Upstream):
    """Answers whatever comes first as HTTP servers do that understand nothing of it."""

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            first = connection.recv(65536)
            assert not first.startswith((b"GET", b"POST"))
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize("body", BODIES)
def test_nothing_is_sent_to_an_endpoint_that_speaks_no_tls(calling, body):
    with Plain() as upstream:
        service = calling.serve(upstream.address)
        before = calling.refusals()
        answer = call(calling.web, service, body)
        assert answer.status in (502, 503)
        (seen,) = eventually(lambda: calling.refusals()[len(before) :])
        assert "does not speak TLS" in seen[1]


@pytest.mark.parametrize("body", BODIES)
def test_without_a_certificate_nothing_is_sent_to_a_strict_service(calling, body):
    with Upstream() as upstream:
        service = calling.serve(upstream.address)
        answer = call(calling.nobody, service, body)
        assert (answer.status, answer.flag) == (503, "UF")
        assert "takes mutual TLS alone (mtls: strict) and this proxy has no certificate" in answer.text
        assert upstream.requests == []
        assert upstream.connections == 0 or body is not None


def test_a_strict_service_without_endpoints_gets_nothing_plain_at_the_address_that_the_caller_named(calling):
    with Upstream() as upstream:
        calling.apply(f"service: bare\nmtls: strict\nhosts: ['{upstream.address}']\n")
        answer = get(calling.web.port, f"http://{upstream.address}/")
        assert (answer.status, answer.flag) == (503, "UF")
        assert upstream.requests == []


def test_permissive_speaks_tls_where_the_endpoint_does_and_the_caller_can(calling):
    service = f"service-{calling.number + 1}"
    shown = calling.identities.of(service)
    with Upstream(saying(200, "tls"), tls=shown.server()) as secure, Upstream(saying(200, "plain")) as plain:
        calling.serve({"address": secure.address, "mtls": True}, mtls="permissive")
        assert get(calling.web.port, f"http://{service}/").body == b"tls"
        calling.serve({"address": plain.address}, mtls="permissive")
        other = f"service-{calling.number}"
        assert get(calling.web.port, f"http://{other}/").body == b"plain"
        # Such an endpoint takes plain connections too: it is the caller who has nothing to show.
        calling.serve({"address": plain.address, "mtls": True}, mtls="permissive")
        third = f"service-{calling.number}"
        assert get(calling.nobody.port, f"http://{third}/").body == b"plain"


def test_services_at_one_address_never_share_a_connection(calling):
    with Upstream(tls=calling.identities.of("first").server()) as upstream:
        for service in ("first", "second"):
            calling.apply(f"service: {service}\nmtls: strict\nendpoints: ['{upstream.address}']\n")
        assert get(calling.web.port, "http://first/").status == 200
        answer = get(calling.web.port, "http://second/")
        assert answer.status == 503
        assert "is of spiffe://mesh/service/first, not of spiffe://mesh/service/second" in answer.text
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("body", BODIES)
def test_from_proxy_to_proxy_the_application_sees_who_called(calling, body):
    calling.apply(f"service: shop\nmtls: strict\nendpoints: ['127.0.0.1:{calling.shop_port}']\n")
    calling.application.requests.clear()
    for _ in range(2):
        answer = call(calling.web, "shop", body)
        assert (answer.status, answer.body) == (200, b"hello")
    request = calling.application.requests[-1]
    assert request.body == (body or b"")
    caller = request.header("x-forwarded-client-cert")
    assert caller is not None
    assert caller.startswith("By=spiffe://mesh/service/shop;Hash=")
    assert caller.endswith(";URI=spiffe://mesh/service/web")
    line = eventually(calling.shop.lines)[-1]
    assert (line["source"], line["peer"], line["tls"]) == ("web", "spiffe://mesh/service/web", "TLSv1.3")
    assert call(calling.nobody, "shop", body).status == 503
