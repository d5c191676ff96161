"""Host lookup against a search through all claims, one by one."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.compiling import compile_defaults, compile_service
from control.policy.hosts import HostIndex
from control.policy.model import Policy


def index_of(claims: dict[str, list[str]]) -> HostIndex:
    """The index of services with these hosts."""
    defaults = compile_defaults(None)
    pairs = []
    for service, hosts in claims.items():
        policy = Policy.model_validate({"service": service, "hosts": hosts})
        pairs.append((policy, compile_service(policy, defaults, {service: {}})))
    return HostIndex().changed([], pairs)


def found(index: HostIndex, host: str, port: int = 80) -> str | None:
    service = index.find(host, port)
    return None if service is None else service.name


def plainly(claims: dict[str, list[str]], host: str, port: int) -> str | None:
    """Of all claims that fit, the best: exact before wildcard, longer before shorter, with port before without.

    For exact claims the length is the same, so the port decides.
    """
    best: tuple[tuple[bool, int, bool], str] | None = None
    for service, hosts in claims.items():
        for claim in [service, *hosts]:
            name, _, wanted = claim.partition(":")
            if wanted and int(wanted) != port:
                continue
            wildcard = name.startswith("*.")
            if not (host.endswith(name[1:]) and len(host) > len(name[1:]) if wildcard else host == name):
                continue
            rank = (not wildcard, len(name), wanted != "")
            if best is None or rank > best[0]:
                best = (rank, service)
    return best and best[1]


LABELS = st.sampled_from(["a", "b"])
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
CLAIMS = st.builds(
    lambda wildcard, host, port: ("*." if wildcard else "") + host + port,
    st.booleans(),
    HOSTS,
    st.sampled_from(["", ":80", ":81"]),
)
SERVICES = ["s0", "s1", "s2", "s3"]


@st.composite
def services(draw: st.DrawFn) -> dict[str, list[str]]:
    claims: dict[str, list[str]] = {service: [] for service in SERVICES}
    for claim in draw(st.lists(CLAIMS, unique=True, max_size=12)):
        claims[draw(st.sampled_from(SERVICES))].append(claim)
    return claims


@given(
    services(),
    st.lists(st.tuples(HOSTS | st.sampled_from(SERVICES), st.sampled_from([80, 81, 82])), min_size=1),
)
def test_a_host_finds_what_a_search_through_all_claims_finds(
    claims: dict[str, list[str]], asked: list[tuple[str, int]]
) -> None:
    index = index_of(claims)
    for host, port in asked:
        assert found(index, host, port) == plainly(claims, host, port)


EXAMPLE = {
    "reviews": ["reviews.example", "*.reviews.example", "10.0.0.5:8080", "[::1]:8080"],
    "canary": ["canary.reviews.example", "*.example:8443"],
    "eu": ["*.eu.reviews.example"],
    "admin": ["reviews.example:9000", "*.reviews.example:9000"],
}


@pytest.mark.parametrize(
    ("host", "port", "service"),
    [
        ("reviews", 80, "reviews"),
        ("reviews", 12345, "reviews"),
        ("REVIEWS", 80, "reviews"),
        ("reviews.", 80, "reviews"),
        ("Reviews.Example.", 80, "reviews"),
        ("a.reviews.example", 80, "reviews"),
        ("a.b.reviews.example", 80, "reviews"),
        ("A.B.Reviews.Example", 80, "reviews"),
        ("canary.reviews.example", 80, "canary"),
        ("canary.reviews.example", 8443, "canary"),
        ("reviews.example", 8443, "reviews"),
        ("a.reviews.example", 8443, "reviews"),
        ("other.example", 8443, "canary"),
        ("reviews.example", 9000, "admin"),
        ("REVIEWS.example", 9000, "admin"),
        ("a.reviews.example", 9000, "admin"),
        ("a.eu.reviews.example", 9000, "eu"),
        ("other.example", 80, None),
        ("a.eu.reviews.example", 80, "eu"),
        ("eu.reviews.example", 80, "reviews"),
        ("10.0.0.5", 8080, "reviews"),
        ("10.0.0.5", 8081, None),
        ("::1", 8080, "reviews"),
        ("[::1]", 8080, "reviews"),
        ("xreviews.example", 80, None),
        ("*", 80, None),
        ("", 80, None),
        (".", 80, None),
        ("a." * 200 + "reviews.example", 80, None),
    ],
)
def test_spellings_and_precedence(host: str, port: int, service: str | None) -> None:
    assert found(index_of(EXAMPLE), host, port) == service


def test_claims_come_and_go() -> None:
    index = index_of(EXAMPLE)
    policy = Policy.model_validate({"service": "canary", "hosts": EXAMPLE["canary"]})
    without = index.changed([policy], [])
    assert found(without, "canary.reviews.example") == "reviews"
    assert found(without, "other.example", 8443) is None
    assert found(without, "canary") is None
    assert found(index, "canary.reviews.example") == "canary"


def test_hostile_hosts_cost_little() -> None:
    index = index_of(EXAMPLE)
    random = Random(1)
    for _ in range(100):
        assert found(index, "." * 50_000 + str(random.random())) is None
