"""Mirrors: which version gets copies of which requests, and what is refused."""

from random import Random

import pytest

from control.policy.checking import check
from control.policy.errors import PolicyErrors
from control.policy.mirroring import CompiledMirror, shadow_host
from control.policy.reading import normalize, read_bytes
from control.policy.snapshot import Snapshot, build

TWO = "endpoints: {v1: ['10.0.0.1:80'], v2: ['10.0.0.2:80', '10.0.0.3:80']}\n"


def snapshot(text: str, previous: Snapshot | None = None) -> Snapshot:
    documents = read_bytes(text.encode(), "test.yaml")
    return build(1, {each.policy.service: normalize(each.policy) for each in documents}, previous)


def mirror_of(made: Snapshot, service: str = "web", route: int | None = None) -> CompiledMirror | None:
    compiled = made.services[service]
    return (compiled.own if route is None else compiled.routes[route]).mirror


def test_of_documents_and_routes() -> None:
    made = snapshot(
        f"service: web\n{TWO}mirror: v2\nroutes: [{{match: {{path: /a}}}}, {{mirror: {{to: Other/x, percent: 5}}}}]\n"
        "---\nservice: other\nendpoints: {x: ['10.0.0.9:80']}"
    )
    own = mirror_of(made)
    assert own is not None
    assert (own.name, own.service, own.version) == ("v2", "web", "v2")
    assert [endpoint.address for endpoint in own.endpoints] == ["10.0.0.2:80", "10.0.0.3:80"]
    assert mirror_of(made, route=0) is own
    there = mirror_of(made, route=1)
    assert there is not None
    assert (there.name, there.service, there.version, there.source.percent) == ("other/x", "other", "x", 5)
    assert [endpoint.address for endpoint in there.endpoints] == ["10.0.0.9:80"]


def test_new_endpoints_of_the_mirrored_service_are_seen() -> None:
    text = "service: web\nmirror: other/x\n---\nservice: other\nendpoints: {{x: ['10.0.0.{}:80']}}"
    before = snapshot(text.format(1))
    after = mirror_of(snapshot(text.format(2), before))
    assert after is not None
    assert [endpoint.address for endpoint in after.endpoints] == ["10.0.0.2:80"]


@pytest.mark.parametrize(("percent", "share"), [(100, 1.0), (0, 0.0), (25, 0.25)])
def test_the_share_that_is_copied(percent: int, share: float) -> None:
    mirror = mirror_of(snapshot(f"service: web\n{TWO}mirror: {{to: v2, percent: {percent}}}"))
    assert mirror is not None
    random, n = Random(5), 4000
    copied = sum(mirror.wants(random) for _ in range(n))
    assert abs(copied - n * share) <= 3 * (n * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(
    ("host", "shadow"),
    [
        ("web", "web-shadow"),
        ("web.example:8080", "web.example-shadow:8080"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("10.0.0.1", "10.0.0.1"),
        ("[::1]:80", "[::1]:80"),
        ("[::1]", "[::1]"),
    ],
)
def test_the_host_of_a_copy(host: str, shadow: str) -> None:
    assert shadow_host(host) == shadow


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            f"service: web\n{TWO}mirror: v3",
            "test.yaml:3: web: mirror: web has no version v3: known are v1, v2",
        ),
        (
            f"service: web\n{TWO}routes:\n- mirror:\n    to: v3",
            "test.yaml:5: web: routes[0].mirror.to: web has no version v3: known are v1, v2",
        ),
        (
            "service: web\nmirror: {to: other/v1}",
            "test.yaml:2: web: mirror.to: no service other: known are web",
        ),
        ("service: web\nmirror: v1", "test.yaml:2: web: mirror: web has no endpoints"),
    ],
)
def test_where_a_mirror_cannot_lead(text: str, problem: str) -> None:
    problems = check(read_bytes(text.encode(), "test.yaml"))
    assert [str(each).startswith(problem) for each in problems] == [True], problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("service: web\nmirror: {percent: 5}", "web: mirror.to: missing: write a version"),
        ("service: web\nmirror: [v1]", "web: mirror: write a version, or a mapping such as"),
        ("service: web\nmirror: {to: {v1: 1}}", "web: mirror.to: write a version, such as v2"),
        ("service: '*'\nmirror: a/v1", '*: mirror: "*" holds defaults only'),
    ],
)
def test_what_is_no_mirror_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(text.encode(), "test.yaml")
    assert f": {problem}" in str(caught.value)


def test_errors_elsewhere_do_not_hide_a_mirror_that_leads_nowhere() -> None:
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(
            f"service: web\n{TWO}mirror: v3\nroutes: [{{mirror: v4}}]\ntimeot: 1s".encode(), "test.yaml"
        )
    assert "mirror: web has no version v3" in str(caught.value)
    assert "routes[0].mirror: web has no version v4" in str(caught.value)
