"""What of a document acts in front of its own service, and that the rest does not act a second time."""

from random import Random

from control.policy.facts import RequestFacts
from control.policy.inbound import Inbound, inbound_of
from tests.flows import snapshot

POLICY = """
service: web
endpoints: {v1: [10.0.0.1:80], v2: [10.0.0.2:80]}
timeout: 1s
idle_timeout: 7s
connect_timeout: 2s
retry: 3
faults: [{abort: 503}]
request_headers: {set: {a: b}}
response_headers: {set: {a: b}}
access_log: off
routes:
  - {name: admin, match: {path: {prefix: /admin}}, to: v2, authorization: {allow: {from: ops}}}
  - {name: teapot, match: {path: /tea}, respond: {status: 418}}
"""


def of(text: str, name: str = "web"):
    made = snapshot(text)
    return inbound_of(made.services.get(name), made.defaults)


def route(service, path: str):
    return service.route(RequestFacts("GET", "web", 80, path, ()), Random(1))


def test_only_what_is_meant_for_the_service_itself_acts():
    service = of(POLICY)
    assert service.guarded
    own, admin, teapot = (route(service, path) for path in ("/", "/admin/x", "/tea"))
    for each in (own, admin, teapot):
        assert (each.timeout, each.retry, each.faults, each.shares, each.respond) == (
            None,
            None,
            (),
            (),
            None,
        )
        assert (each.request_headers, each.response_headers) == (None, None)
        assert (each.idle_timeout, each.connect_timeout) == (7.0, 2.0)
        assert each.access_log is not None
    assert own.authorization is None
    assert (admin.label, admin.authorization.allow[0].source.from_) == ("admin", ("ops",))


def test_routes_that_make_no_difference_are_not_looked_for():
    service = of("service: web\nroutes: [{match: {path: /a}, retry: 2}, {match: {path: /b}, respond: {}}]")
    assert (service.routes, service.guarded) == ((), False)


def test_without_a_document_the_defaults_of_the_mesh_hold():
    service = of('service: "*"\nauthorization: {allow: {from: a}}\nretry: 3', "web")
    assert (service.guarded, service.own.retry) == (True, None)


def test_it_is_made_anew_only_when_the_document_or_the_defaults_are():
    inbound = Inbound()
    from control.policy.reading import normalize, read_bytes
    from control.policy.snapshot import build

    def texts(policy: str) -> dict[str, str]:
        return {each.policy.service: normalize(each.policy) for each in read_bytes(policy.encode(), "x")}

    first = build(1, texts("service: web\nauthorization: {deny: {from: a}}"))
    made = inbound.service(first, "web")
    assert inbound.service(first, "web") is made
    other = build(2, texts("service: web\nauthorization: {deny: {from: a}}\n---\nservice: b"), first)
    assert inbound.service(other, "web") is made
    changed = build(3, texts("service: web\nauthorization: {deny: {from: b}}"), other)
    assert inbound.service(changed, "web") is not made
    assert not inbound.service(changed, "other").guarded
    star = build(4, texts('service: "*"\nauthorization: {deny: {from: b}}'), changed)
    assert inbound.service(star, "web").guarded
