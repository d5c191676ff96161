"""Who may call, by the certificate that the proxy in front of the service has verified: real proxies, curl with certificates."""

import json
import random
import re

import pytest

from control.store_registry import by_service
from tests.mesh_process import LANES, Proxy, eventually, get, running, with_options
from tests.test_authorizing import second_opinion
from tests.test_end_to_end_authorization import THROWING
from tests.test_end_to_end_mtls import InFront

pytestmark = pytest.mark.timeout(180)

RULES = "authorization: {allow: [{from: web, methods: GET}, {from: 'spiffe://mesh/service/batch*'}], deny: {from: dev, paths: {prefix: /admin}}}"


@pytest.fixture(scope="module", params=LANES)
def front(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("callers")
    script = folder / "throwing.py"
    script.write_text(THROWING)
    with InFront(folder, {**request.param, "scripts": [script]}).running() as made:
        yield made


def status(front: InFront, path: str, who: str | None, *more: str) -> str:
    shown = front.identities.of(who) if who else None
    return front.curl(path, shown, "--output", "/dev/null", "--write-out", "%{http_code}", *more).stdout


def targets(front: InFront) -> list[str]:
    return [request.target for request in front.application.requests]


def test_the_caller_is_who_its_certificate_says(front):
    front.apply(f"service: reviews\nmtls: strict\n{RULES}")
    front.application.requests.clear()
    assert status(front, "/web", "web") == "200"
    assert status(front, "/batch", "batch-7", "--request", "POST") == "200"
    assert status(front, "/web-post", "web", "--request", "POST") == "403"
    assert status(front, "/dev", "dev") == "403"
    forged = "x-forwarded-client-cert: By=spiffe://mesh/service/reviews;URI=spiffe://mesh/service/web"
    assert status(front, "/forged", "dev", "--header", forged) == "403"
    assert targets(front) == ["/web", "/batch"]
    line = front.proxy.line("/dev")
    assert (line["status"], line["flags"], line["source"], line["service"]) == (403, "RBAC", "dev", "reviews")
    assert front.proxy.line("/web")["source"] == "web"


def test_who_has_no_certificate_is_nobody(front):
    front.apply(f"service: reviews\nmtls: permissive\n{RULES}")
    front.application.requests.clear()
    assert status(front, "/permissive", "web") == "200"
    assert get(front.port, "/plain").status == 403
    front.apply("service: reviews\nmtls: permissive\nauthorization: {deny: {from: dev, paths: /x}}")
    # He may be the one who is denied.
    assert (get(front.port, "/x").status, get(front.port, "/y").status) == (403, 200)
    assert (status(front, "/x", "web"), status(front, "/x", "dev")) == ("200", "403")
    assert targets(front) == ["/permissive", "/y", "/x"]


def test_a_route_of_the_document_has_rules_of_its_own_and_nothing_else_acts_again(front):
    front.apply(
        "service: reviews\nmtls: strict\nauthorization: {allow: {from: web}}\nretry: 5\nfaults: [{abort: 500}]\n"
        "request_headers: {set: {x-twice: yes}}\nresponse_headers: {set: {x-twice: yes}}\n"
        "routes: [{name: open, match: {path: /open}, authorization: {}}, {name: tea, match: {path: /tea}, respond: {status: 418}}]"
    )
    front.application.requests.clear()
    assert status(front, "/open", "dev", "--header", "x-mesh-fault: abort=503") == "200"
    assert status(front, "/tea", "web") == "200"
    assert status(front, "/other", "dev") == "403"
    assert targets(front) == ["/open", "/tea"]
    assert all(request.header("x-twice") is None for request in front.application.requests)
    assert front.application.requests[0].header("x-mesh-fault") is None
    assert front.proxy.line("/open")["route"] == "open"


def test_audit_in_front_of_the_service(front):
    front.apply("service: reviews\nmtls: strict\nauthorization: {audit: true, allow: {from: web}}")
    assert status(front, "/tried", "dev") == "200"
    assert front.proxy.line("/tried")["flags"] == "RBAC_AUDIT"
    assert "would be refused (audit): 'GET /tried to reviews from dev'" in front.proxy.console()


def test_nothing_passes_that_the_rules_refuse(front):
    choices = random.Random(7)
    passed = refused = 0
    for number in range(8):
        rules = {
            "allow": [{"from": [choices.choice(["a", "a*", "*", "spiffe://mesh/*"])], "methods": ["GET"]}],
            "deny": [
                {"from": [choices.choice(["b", "ab"])], "paths": [choices.choice(["/a", {"prefix": "/a"}])]}
            ],
        }
        if choices.random() < 0.5:
            del rules[choices.choice(["allow", "deny"])]
        front.apply(f"service: reviews\nmtls: permissive\nauthorization: {json.dumps(rules)}")
        for who in ("a", "ab", "b", None):
            method, path = choices.choice(["GET", "POST"]), choices.choice(["/a", "/a/b", "/b"])
            front.application.requests.clear()
            if who is None:
                got = str(get(front.port, path).status)
                method = "GET"
            else:
                got = status(front, path, who, "--request", method)
            allowed = second_opinion(rules, who or "", method, path, {})
            assert got == ("200" if allowed else "403"), (number, rules, who, method, path)
            assert len(front.application.requests) == int(allowed)
            passed, refused = passed + allowed, refused + (not allowed)
    assert passed > 3
    assert refused > 3
    assert re.search("thrown in requestheaders", front.proxy.console())


def test_from_proxy_to_proxy_by_an_endpoint_that_registered_itself(front, tmp_path):
    front.apply(
        "service: reviews\nmtls: strict\nendpoints: auto\nauthorization: {allow: {from: web, paths: {prefix: /open}}}"
    )
    caller = Proxy(
        tmp_path / "caller",
        front.valkey.url,
        **with_options(
            {"lean": True}, mesh_service="web", mesh_identity=str(front.identities.of("web").folder)
        ),
    )
    stranger = Proxy(
        tmp_path / "stranger",
        front.valkey.url,
        **with_options(
            {"lean": True}, mesh_service="dev", mesh_identity=str(front.identities.of("dev").folder)
        ),
    )
    with running(caller, stranger):
        found = eventually(
            lambda: by_service(front.mesh.use(lambda store: store.registrations())).get("reviews")
        )
        assert [(each.address, each.mtls) for each in found] == [(f"127.0.0.1:{front.port}", True)]
        assert eventually(lambda: get(caller.port, "http://reviews/open/1").status == 200)
        front.application.requests.clear()
        refused = get(caller.port, "http://reviews/closed")
        assert (refused.status, refused.flag) == (403, "RBAC")
        # Early, at the caller's side: the proxy in front of the service never heard of it.
        early = get(stranger.port, "http://reviews/open/2")
        assert (early.status, early.flag) == (403, "RBAC")
        assert stranger.line("/open/2")["attempts"] == []
        assert front.application.requests == []
