"""What routes come out of documents, and that a snapshot grown step by step is the one built afresh."""

import gc
import json
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.policy.answers import FixedAnswer
from control.policy.errors import PolicyErrors
from control.policy.facts import RequestFacts
from control.policy.faulting import FaultState, fires
from control.policy.model import Policy
from control.policy.reading import normalize
from control.policy.snapshot import EMPTY, CompiledRoute, CompiledService, Snapshot, build

TWO_VERSIONS = {"v1": ["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 2}], "v2": ["10.0.0.9:80"]}


def documents(*raw: dict[str, Any]) -> dict[str, str]:
    policies = [Policy.model_validate(each) for each in raw]
    return {policy.service: normalize(policy) for policy in policies}


def snapshot(*raw: dict[str, Any], previous: Snapshot | None = None, revision: int = 1) -> Snapshot:
    return build(revision, documents(*raw), previous)


def own(*raw: dict[str, Any]) -> CompiledRoute:
    """The own settings of service `s`, which stands in the documents."""
    return snapshot(*raw).services["s"].own


def taken(service: CompiledService, target: str = "/", **headers: str) -> str:
    fields = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return service.route(RequestFacts("GET", service.name, 80, target, fields), Random(0)).label


# ---- nothing said


def test_without_policy_everything_is_passed_on_with_the_built_in_settings() -> None:
    assert EMPTY.revision == 0
    assert EMPTY.find("reviews", 80) is None
    assert EMPTY.unknown is not None
    route = EMPTY.unknown.own
    assert EMPTY.unknown.name == ""
    assert (route.shares, route.timeout, route.connect_timeout, route.idle_timeout) == ((), None, 5.0, 300.0)
    assert (route.retry, route.faults, route.respond, route.access_log) == (None, (), None, None)
    assert (route.request_headers, route.response_headers) == (None, None)
    assert route.pick_share(Random(0)) is None


def test_unknown_hosts_get_the_defaults_of_the_mesh_or_are_refused() -> None:
    allowed = snapshot({"service": "*", "retry": 3, "timeout": "2s"})
    assert allowed.unknown is not None
    assert allowed.unknown.own.timeout == 2.0
    assert allowed.unknown.own.retry is not None
    assert allowed.services == {}
    assert allowed.find("*", 80) is None
    assert snapshot({"service": "*", "unknown_hosts": "refuse"}).unknown is None
    assert snapshot({"service": "*", "unknown_hosts": "allow"}).unknown is not None


# ---- which level's value holds

FIELDS: list[tuple[str, Any, Any, Any]] = [
    # field, values of "*", the document and the route
    ("timeout", "1s", "2s", "3s"),
    ("connect_timeout", "1s", "2s", "3s"),
    ("idle_timeout", "1s", "2s", "3s"),
    ("retry", {"attempts": 2, "on": ["5xx"]}, 3, {"attempts": 4}),
    ("faults", [{"abort": 500}], [{"abort": 501}], [{"abort": 502}]),
    ("request_headers", {"set": {"a": "1"}}, {"add": {"a": "2"}}, {"remove": ["a"]}),
    ("response_headers", {"set": {"a": "1"}}, {"add": {"a": "2"}}, {"remove": ["a"]}),
    ("respond", {"status": 500}, {"status": 501}, {"status": 502}),
    ("access_log", "off", {"sample": 1}, {"sample": 2}),
]


@pytest.mark.parametrize(("field", "star", "document", "route"), FIELDS, ids=[field for field, *_ in FIELDS])
def test_the_nearest_level_that_says_something_holds_whole(
    field: str, star: Any, document: Any, route: Any
) -> None:
    def at(level: str, service: dict[str, Any]) -> Any:
        compiled = snapshot({"service": "*", field: star}, {"service": "s", **service}).services["s"]
        return getattr(compiled.own if level == "own" else compiled.routes[0], field)

    def alone(value: Any) -> Any:
        return getattr(own({"service": "s", field: value}), field)

    def same(one: Any, other: Any) -> bool:
        if field == "faults":
            return [fault.source for fault in one] == [fault.source for fault in other]
        return bool(one == other)

    assert same(at("own", {}), alone(star))
    assert same(at("own", {field: document}), alone(document))
    assert same(at("route", {"routes": [{}]}), alone(star))
    assert same(at("route", {"routes": [{}], field: document}), alone(document))
    assert same(at("route", {"routes": [{field: route}], field: document}), alone(route))
    assert same(at("own", {"routes": [{field: route}], field: document}), alone(document))


def test_zero_takes_a_limit_away() -> None:
    route = own(
        {"service": "*", "timeout": "1s", "idle_timeout": "1s"},
        {"service": "s", "timeout": 0, "idle_timeout": 0},
    )
    assert (route.timeout, route.idle_timeout) == (None, None)


def test_an_empty_list_of_faults_takes_those_of_the_document_away() -> None:
    service = snapshot({"service": "s", "faults": [{"abort": 503}], "routes": [{"faults": []}]}).services["s"]
    assert service.routes[0].faults == ()
    assert len(service.own.faults) == 1


def test_on_takes_back_an_access_log_that_the_mesh_switched_off() -> None:
    assert own({"service": "*", "access_log": "off"}, {"service": "s", "access_log": "on"}).access_log is None


def test_faults_are_one_and_the_same_for_all_that_inherit_them() -> None:
    both = snapshot(
        {"service": "*", "faults": [{"abort": 503, "first": 2}]},
        {"service": "a", "routes": [{"name": "r"}, {"name": "q"}]},
        {"service": "b"},
    )
    faults = both.services["a"].own.faults
    assert both.services["a"].routes[0].faults is faults
    assert both.services["a"].routes[1].faults is faults
    assert both.services["b"].own.faults is faults
    assert both.unknown is not None
    assert both.unknown.own.faults is faults


def test_the_same_fault_at_different_places_counts_for_itself() -> None:
    fault = [{"abort": 503, "first": 1}]
    both = snapshot(
        {
            "service": "a",
            "faults": fault,
            "routes": [{"name": "r", "faults": fault}, {"faults": fault}, {"faults": fault}],
        },
        {"service": "b", "faults": fault},
        {"service": "*", "faults": fault},
    )
    a = both.services["a"]
    levels = [a.own, *a.routes, both.services["b"].own, both.unknown and both.unknown.own]
    assert len({level.faults[0].key for level in levels if level}) == 6


def test_a_fault_keeps_its_key_while_its_text_and_place_stay() -> None:
    fault = {"abort": 503, "first": 5}
    before = snapshot({"service": "s", "routes": [{"match": {"path": "/a"}, "faults": [fault]}]}).services[
        "s"
    ]
    after = snapshot(
        {
            "service": "s",
            "timeout": "1s",
            "routes": [
                {"match": {"path": "/new"}},
                {"match": {"path": "/a"}, "faults": [{"abort": 500}, fault]},
            ],
        }
    ).services["s"]
    assert after.routes[1].faults[1].key == before.routes[0].faults[0].key
    facts, state = RequestFacts("GET", "s", 80, "/a", ()), FaultState(before.routes[0].faults[0])
    assert fires(before.routes[0].faults[0], facts, state, Random(0))


# ---- where to


def test_without_to_all_versions_together() -> None:
    route = own({"service": "s", "endpoints": TWO_VERSIONS})
    (share,) = route.shares
    assert (share.name, share.service, share.version, share.share) == ("", "s", None, 1.0)
    assert [(each.version, each.address, each.weight) for each in share.endpoints] == [
        ("v1", "10.0.0.1:80", 1.0),
        ("v1", "10.0.0.2:80", 2.0),
        ("v2", "10.0.0.9:80", 1.0),
    ]
    assert route.pick_share(Random(0)) is share


def test_endpoints_of_ipv6_and_of_the_default_version() -> None:
    (share,) = own({"service": "s", "endpoints": ["[::1]:8080"], "to": "default"}).shares
    (endpoint,) = share.endpoints
    assert (endpoint.host, endpoint.port, endpoint.address) == ("::1", 8080, "[::1]:8080")
    assert (endpoint.service, endpoint.version) == ("s", "default")


def test_without_endpoints_there_are_no_shares() -> None:
    assert own({"service": "s"}).shares == ()


def test_a_route_without_to_goes_where_its_document_says() -> None:
    service = snapshot(
        {
            "service": "s",
            "endpoints": TWO_VERSIONS,
            "to": "v2",
            "routes": [{"match": {"path": "/x"}}, {"to": "v1"}],
        }
    ).services["s"]
    assert [share.name for share in service.routes[0].shares] == ["v2"]
    assert [share.name for share in service.routes[1].shares] == ["v1"]
    assert [share.name for share in service.own.shares] == ["v2"]


def test_weights_fractions_and_other_services() -> None:
    route = own(
        {"service": "other", "endpoints": {"v1": ["10.1.0.1:80"]}},
        {"service": "s", "endpoints": TWO_VERSIONS, "to": {"v1": 0.5, "v2": 0, "other/v1": 1.5}},
    )
    shares = {share.name: share for share in route.shares}
    assert {name: share.share for name, share in shares.items()} == {"v1": 0.25, "v2": 0.0, "other/v1": 0.75}
    assert (shares["other/v1"].service, shares["other/v1"].version) == ("other", "v1")
    assert [endpoint.address for endpoint in shares["other/v1"].endpoints] == ["10.1.0.1:80"]


def test_a_version_has_one_list_of_endpoints_wherever_it_is_named() -> None:
    both = snapshot(
        {"service": "other", "endpoints": TWO_VERSIONS, "to": "v1"},
        {"service": "s", "to": {"other/v1": 1}, "routes": [{"to": {"other/v1": 1, "other/v2": 1}}]},
    )
    endpoints = both.services["other"].own.shares[0].endpoints
    assert both.services["s"].own.shares[0].endpoints is endpoints
    assert both.services["s"].routes[0].shares[0].endpoints is endpoints


@pytest.mark.parametrize("weights", [{"v1": 90, "v2": 10}, {"v1": 1, "v2": 2}, {"v1": 0.001, "v2": 0.999}])
def test_a_split_is_within_3_sigma(weights: dict[str, float]) -> None:
    route = own({"service": "s", "endpoints": TWO_VERSIONS, "to": weights})
    random, n = Random(42), 50_000
    counted = Counter(share.name for _ in range(n) if (share := route.pick_share(random)) is not None)
    for version, weight in weights.items():
        p = weight / sum(weights.values())
        assert abs(counted[version] - n * p) < 3 * (n * p * (1 - p)) ** 0.5


class Point(Random):
    def __init__(self, point: float) -> None:
        super().__init__()
        self.point = point

    def random(self) -> float:
        return self.point


@pytest.mark.parametrize(
    "weights",
    [{"v1": 0, "v2": 1, "v3": 0}, {"v1": 0, "v2": 1e-300, "v3": 1e-300}, {"v1": 0, "v2": 0.1, "v3": 0.2}],
)
@pytest.mark.parametrize("point", [0.0, 0.3333333333, 0.5, 1 - 2**-53])
def test_weight_0_is_never_picked(weights: dict[str, float], point: float) -> None:
    endpoints = {version: ["10.0.0.1:80"] for version in weights}
    picked = own({"service": "s", "endpoints": endpoints, "to": weights}).pick_share(Point(point))
    assert picked is not None
    assert weights[picked.name] > 0


def test_rounding_gives_weight_0_no_chance() -> None:
    weights = {**{f"v{number}": 1 for number in range(10)}, "z": 0}
    endpoints = {version: ["10.0.0.1:80"] for version in weights}
    # Ten times 0.1 adds up to a little less than 1, and this is the point beyond it.
    picked = own({"service": "s", "endpoints": endpoints, "to": weights}).pick_share(Point(1 - 2**-53))
    assert picked is not None
    assert picked.name == "v9"


# ---- which route


def test_the_first_route_that_matches_wins() -> None:
    service = snapshot(
        {
            "service": "s",
            "routes": [
                {"name": "testers", "match": {"headers": {"x-group": "qa"}}},
                {"match": [{"path": {"prefix": "/api"}}, {"path": "/x"}]},
                {"name": "also api", "match": {"path": {"prefix": "/api"}}},
            ],
        }
    ).services["s"]
    assert taken(service, "/api", x_group="qa") == "testers"
    assert taken(service, "/api") == "routes[1]"
    assert taken(service, "/x") == "routes[1]"
    assert taken(service, "/y") == ""
    assert service.own.name is None


PREFIXES = st.sampled_from(["/", "/a", "/a/b", "/b"])
ROUTES = st.fixed_dictionaries(
    {},
    optional={
        "match": st.builds(lambda path: {"path": {"prefix": path}}, PREFIXES)
        | st.builds(lambda path: {"path": path}, PREFIXES)
        | st.just({"headers": {"x-a": {"present": True}}})
    },
)


@given(st.lists(ROUTES, max_size=10), st.sampled_from(["/", "/a", "/a/b/c", "/b", "/c"]), st.booleans())
def test_many_routes_as_one_by_one(routes: list[dict[str, Any]], path: str, with_header: bool) -> None:
    service = snapshot({"service": "s", "routes": routes}).services["s"]
    fields = ((b"X-A", b"1"),) if with_header else ()
    facts = RequestFacts("GET", "s", 80, path, fields)
    one_by_one = [
        route
        for route in service.routes
        if route.conditions is None or route.conditions.holds(facts, Random(0))
    ]
    assert service.route(facts, Random(0)) is (one_by_one[0] if one_by_one else service.own)


def test_hosts_lead_to_their_service() -> None:
    both = snapshot(
        {"service": "a", "hosts": ["a.example:81", "*.a.example"]}, {"service": "b", "hosts": ["a.example"]}
    )
    assert both.find("a.example", 81) is both.services["a"]
    assert both.find("A.EXAMPLE", 80) is both.services["b"]
    assert both.find("x.a.example", 80) is both.services["a"]
    assert both.find("nobody", 80) is None


def test_a_fixed_answer() -> None:
    assert own({"service": "s", "respond": {"body": "hi"}}).respond == FixedAnswer(200, (), b"hi")


# ---- step by step

STEP_ENDPOINTS = st.sampled_from(
    [None, {"v1": ["10.0.0.1:80"]}, {"v1": ["10.0.0.2:80"], "v2": ["10.0.0.3:80"]}]
)
NAMES = ["a", "b", "c"]


@st.composite
def meshes(draw: st.DrawFn) -> dict[str, str]:
    """Documents that fit together: only versions that are there are named."""
    endpoints = {name: draw(STEP_ENDPOINTS) for name in draw(st.lists(st.sampled_from(NAMES), unique=True))}
    reachable = [f"{name}/{version}" for name, versions in endpoints.items() for version in versions or ()]
    raw: list[dict[str, Any]] = []
    for name, versions in endpoints.items():
        document: dict[str, Any] = {"service": name}
        if versions is not None:
            document["endpoints"] = versions
        if reachable and draw(st.booleans()):
            document["to"] = draw(st.sampled_from(reachable))
        if draw(st.booleans()):
            document["hosts"] = [
                draw(st.sampled_from([f"{name}.example", f"*.{name}.example", f"{name}.example:81"]))
            ]
        if draw(st.booleans()):
            document["faults"] = [{"abort": 503, "first": draw(st.integers(1, 2))}]
        raw.append(document)
    if draw(st.booleans()):
        raw.append({"service": "*", "timeout": draw(st.sampled_from(["1s", "2s"]))})
    return documents(*raw)


@st.composite
def any_meshes(draw: st.DrawFn) -> dict[str, str]:
    """Documents each of which is sound, that may or may not fit together."""
    versions = [f"{name}/v1" for name in NAMES]
    hosts = [*NAMES, "x", "*.x", "x:81"]
    raw: list[dict[str, Any]] = []
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        document: dict[str, Any] = {"service": name}
        if draw(st.integers(0, 3)):
            document["endpoints"] = {"v1": ["10.0.0.1:80"]}
        if draw(st.integers(0, 2)) == 0:
            document["routes"] = [{"to": draw(st.sampled_from(versions))}]
        if draw(st.integers(0, 2)) == 0:
            document["hosts"] = draw(st.lists(st.sampled_from(hosts), min_size=1, max_size=2, unique=True))
        raw.append(document)
    return documents(*raw)


def problems(revision: int, docs: dict[str, str], previous: Snapshot | None = None) -> list[str]:
    try:
        build(revision, docs, previous)
    except PolicyErrors as errors:
        return sorted(problem.message for problem in errors.problems)
    return []


@given(any_meshes().filter(lambda docs: not problems(1, docs)), any_meshes())
@settings(max_examples=400, suppress_health_check=[HealthCheck.filter_too_much])
def test_what_does_not_fit_together_is_refused_step_by_step_as_it_is_afresh(
    before: dict[str, str], after: dict[str, str]
) -> None:
    assert bool(problems(2, after, build(1, before))) is bool(problems(2, after))


def contents(built: Snapshot) -> Any:
    hosts = [
        (host, port, found.name if (found := built.find(host, port)) else None)
        for name in NAMES
        for host in (name, f"{name}.example", f"x.{name}.example")
        for port in (80, 81)
    ]
    return (built.revision, built.services, built.unknown, built.policies, built.texts, built.reaches, hosts)


@given(st.lists(meshes(), min_size=2, max_size=5))
def test_a_snapshot_grown_step_by_step_is_the_one_built_afresh(steps: list[dict[str, str]]) -> None:
    grown: Snapshot | None = None
    for revision, step in enumerate(steps):
        grown = build(revision, step, grown)
        fresh = build(revision, step)
        assert contents(grown) == contents(fresh)
        for service in grown.services.values():
            assert grown.find(service.name, 80) is service


@given(meshes(), meshes())
def test_what_a_change_does_not_touch_is_the_same_object(
    before: dict[str, str], after: dict[str, str]
) -> None:
    old = build(1, before)
    new = build(2, after, old)
    for name, service in new.services.items():
        # Everything a service depends on: its own document, "*", and what its `to` reaches.
        depends = [name, "*", *(reached for reached in NAMES if f'"{reached}/' in after[name])]
        unchanged = name in before and all(before.get(each) == after.get(each) for each in depends)
        assert (service is old.services.get(name)) is unchanged


def test_an_untouched_mesh_is_reused_whole() -> None:
    docs = documents({"service": "a"}, {"service": "*", "retry": 2})
    old = build(1, docs)
    new = build(2, dict(docs), old)
    assert (old.revision, new.revision) == (1, 2)
    assert new.services == old.services
    assert new.services["a"] is old.services["a"]
    assert new.unknown is old.unknown


def test_endpoints_that_stay_are_the_same_objects_though_their_document_changes() -> None:
    old = snapshot({"service": "s", "endpoints": TWO_VERSIONS})
    new = snapshot({"service": "s", "endpoints": TWO_VERSIONS, "timeout": "1s"}, previous=old)
    assert new.services["s"].own.shares[0].endpoints is old.services["s"].own.shares[0].endpoints


# ---- refused


def test_every_document_that_cannot_be_read_is_named() -> None:
    docs = {
        **documents({"service": "good"}),
        "one": "{",
        "two": '{"service":"two","retries":3}',
        "three": '{"service":"other"}',
    }
    with pytest.raises(PolicyErrors) as raised:
        build(1, docs)
    text = str(raised.value)
    for name in ("one", "two", "three"):
        assert any(name in line for line in text.splitlines())
    assert "good" not in text


def test_problems_name_the_document_and_no_line_since_redis_has_none() -> None:
    with pytest.raises(PolicyErrors) as raised:
        snapshot({"service": "a", "to": "b/v1"}, {"service": "c", "hosts": ["a"]})
    assert [(problem.file, problem.line, problem.document) for problem in raised.value.problems] == [
        ("redis", None, "c"),
        ("redis", None, "a"),
    ]
    assert "line" not in str(raised.value)


def test_a_message_knows_every_service_though_the_change_concerns_few() -> None:
    old = snapshot({"service": "a"}, {"service": "reviews"})
    with pytest.raises(PolicyErrors, match="reviews"):
        snapshot({"service": "a", "to": "review/v1"}, {"service": "reviews"}, previous=old)


def test_a_refused_change_leaves_the_snapshot_before_as_it_was() -> None:
    old = snapshot({"service": "s", "hosts": ["s.example"]})
    was = contents(old)
    with pytest.raises(PolicyErrors):
        build(2, {"s": '{"service":"s","retry":0}'}, old)
    assert contents(old) == was
    assert contents(build(3, documents({"service": "s"}), old)) == contents(
        snapshot({"service": "s"}, revision=3)
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [{"service": "a", "to": "v1"}]),
        ([], [{"service": "a", "to": "b/v1"}]),
        (
            [{"service": "a", "hosts": ["x"]}],
            [{"service": "a", "hosts": ["x"]}, {"service": "b", "hosts": ["x"]}],
        ),
        ([{"service": "b"}], [{"service": "a", "hosts": ["b"]}, {"service": "b"}]),
        (
            [{"service": "b", "endpoints": TWO_VERSIONS}, {"service": "a", "to": "b/v1"}],
            [{"service": "a", "to": "b/v1"}],
        ),
        (
            [{"service": "b", "endpoints": TWO_VERSIONS}, {"service": "a", "to": "b/v2"}],
            [{"service": "b", "endpoints": {"v1": ["10.0.0.1:80"]}}, {"service": "a", "to": "b/v2"}],
        ),
    ],
    ids=[
        "own version",
        "other service",
        "host twice",
        "host is a service",
        "reached deleted",
        "reached altered",
    ],
)
def test_documents_that_do_not_fit_together_are_refused_afresh_and_step_by_step(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    with pytest.raises(PolicyErrors):
        snapshot(*after)
    with pytest.raises(PolicyErrors):
        snapshot(*after, previous=snapshot(*before))


def test_building_leaves_garbage_collection_as_it_was() -> None:
    assert gc.isenabled()
    snapshot({"service": "s"})
    assert gc.isenabled()
    gc.disable()
    try:
        snapshot({"service": "s"})
        assert not gc.isenabled()
    finally:
        gc.enable()
    with pytest.raises(PolicyErrors):
        build(1, {"s": json.dumps({"service": "t"})})
    assert gc.isenabled()


# ---- for a while


def timed_snapshot(now: float, previous: Snapshot | None = None) -> Snapshot:
    since = "1970-01-01T00:16:40Z"  # 1000
    docs = documents(
        {"service": "*", "faults": [{"delay": "1s", "for": "20s", "since": since}]},
        {
            "service": "s",
            "routes": [
                {"name": "a", "timeout": "1s", "for": "10s", "since": since},
                {"match": {"path": "/b"}, "timeout": "2s"},
                {"name": "c", "retry": 2, "faults": [{"abort": 503, "for": "30s", "since": since}]},
            ],
        },
        {"service": "other", "timeout": "1s"},
    )
    return build(1, docs, previous, now)


@pytest.mark.parametrize(
    ("now", "routes", "abort", "delay", "expires"),
    [
        (1000, ["a", "routes[1]", "c"], 1, 1, 1010),
        (1010, ["routes[1]", "c"], 1, 1, 1020),
        (1020, ["routes[1]", "c"], 1, 0, 1030),
        (1030, ["routes[1]", "c"], 0, 0, None),
    ],
)
def test_what_has_expired_is_left_out(
    now: float, routes: list[str], abort: int, delay: int, expires: float | None
) -> None:
    grown = timed_snapshot(now, timed_snapshot(1000))
    for found in (timed_snapshot(now), grown):
        service = found.services["s"]
        assert [route.label for route in service.routes] == routes
        assert taken(service, "/b") == routes[0]
        assert len(service.routes[-1].faults) == abort
        assert found.unknown is not None
        assert len(found.unknown.own.faults) == len(service.own.faults) == delay
        assert found.expires == expires
    assert contents(grown) == contents(timed_snapshot(now))


def test_only_what_expires_is_compiled_again() -> None:
    before = timed_snapshot(1000)
    after = timed_snapshot(1010, before)
    assert after.services["other"] is before.services["other"]
    assert after.services["s"] is not before.services["s"]
    assert after.find("s", 80) is after.services["s"]


def test_a_fault_keeps_its_identity_when_another_expires() -> None:
    before, after = timed_snapshot(1000), timed_snapshot(1010)
    assert before.services["s"].routes[-1].faults[0].key == after.services["s"].routes[-1].faults[0].key
