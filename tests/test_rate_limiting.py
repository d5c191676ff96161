"""Rate limits, against the plainest token bucket there is; and which bucket a request is counted in."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.errors import PolicyErrors
from control.policy.facts import RequestFacts
from control.policy.rate_limiting import Buckets, CompiledRateLimit, compile_rate_limit, retry_after, take
from control.policy.rates import RateLimit
from control.policy.reading import normalize, read_bytes
from control.policy.snapshot import build

SECOND = 1_000_000


def limit(requests: int = 10, per: str = "1s", **more: Any) -> CompiledRateLimit:
    return compile_rate_limit(RateLimit.model_validate({"requests": requests, "per": per, **more}), "web")


class Reference:
    """Tokens come evenly, at most `burst` of them; a request takes one."""

    def __init__(self, requests: int, per: Fraction, burst: int) -> None:
        self.rate = requests / per
        self.tokens = self.burst = Fraction(burst)
        self.at: int | None = None

    def passes(self, now: int) -> bool:
        if self.at is not None:
            self.tokens = min(self.burst, self.tokens + self.rate * Fraction(max(0, now - self.at), SECOND))
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def wait(self) -> Fraction:
        """Microseconds until a request would pass."""
        return max(Fraction(0), (1 - self.tokens) / self.rate * SECOND)


steps = st.lists(
    st.one_of(st.just(0), st.integers(0, 2 * SECOND), st.sampled_from([1, 333_333, 10**9, -SECOND])),
    min_size=1,
    max_size=60,
)
limits = st.tuples(
    st.sampled_from([1, 2, 3, 7, 10, 1000]), st.sampled_from(["1ms", "1s", "1.5s", "1m"]), st.integers(1, 12)
)
PER = {"1ms": Fraction(1, 1000), "1s": Fraction(1), "1.5s": Fraction(3, 2), "1m": Fraction(60)}


@given(limits, steps)
def test_the_same_requests_pass_as_with_a_plain_token_bucket(
    made: tuple[int, str, int], pauses: list[int]
) -> None:
    requests, per, burst = made
    compiled = limit(requests, per, burst=burst)
    reference = Reference(requests, PER[per], burst)
    buckets, now = Buckets(), 10**12
    for pause in pauses:
        now += pause
        wait = buckets.take(compiled, "web", "", now)
        assert (wait == 0) is reference.passes(now)
        if wait:
            assert wait - 1 < reference.wait() <= wait


@given(limits, steps, st.integers(1, 5))
def test_many_at_once_are_as_many_one_by_one(
    made: tuple[int, str, int], pauses: list[int], count: int
) -> None:
    requests, per, burst = made
    compiled = limit(requests, per, burst=burst)
    together = alone = (0, 0)
    now = 0
    for pause in pauses:
        now += pause
        granted, level, wait = take(compiled, *together, now, count)
        together = level, now
        passed = 0
        for _ in range(count):
            one, level, last = take(compiled, *alone, now)
            alone = level, now
            passed += one
        assert (granted, together) == (passed, alone)
        if granted < count:
            assert wait == last


@given(limits, steps)
def test_who_waits_as_long_as_is_said_passes(made: tuple[int, str, int], pauses: list[int]) -> None:
    requests, per, burst = made
    compiled = limit(requests, per, burst=burst)
    level, at, now = 0, 0, 0
    for pause in pauses:
        now += max(0, pause)
        _, level, wait = take(compiled, level, at, now)
        at = now
        if wait:
            assert take(compiled, level, at, now + wait)[0] == 1
            assert take(compiled, level, at, now + wait - 1)[0] == 0


def test_burst_is_as_many_as_requests_unless_it_is_said() -> None:
    buckets = Buckets()
    assert [buckets.take(limit(3), "web", "", 0) == 0 for _ in range(4)] == [True] * 3 + [False]
    assert [buckets.take(limit(3, burst=1), "web", "", 0) == 0 for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("wait", "seconds"), [(1, 1), (SECOND, 1), (SECOND + 1, 2), (90 * SECOND, 90), (0, 1)]
)
def test_retry_after_is_in_whole_seconds(wait: int, seconds: int) -> None:
    assert retry_after(wait) == seconds


def facts(source: str = "", **headers: str) -> RequestFacts:
    fields = tuple((name.replace("_", "-").encode(), text.encode()) for name, text in headers.items())
    return RequestFacts("GET", "web", 80, "/", fields, source)


@pytest.mark.parametrize(
    ("by", "asked", "bucket"),
    [
        (None, facts("shop", x_user="ann"), ""),
        ("source", facts("Shop"), "shop"),
        ("source", facts(), ""),
        ("client_ip", facts(x_forwarded_for="1.2.3.4"), "10.0.0.7"),
        ({"header": "X-User"}, facts(x_user="ann"), "ann"),
        ({"header": "x-user"}, facts(), ""),
    ],
)
def test_the_bucket_of_a_request(by: Any, asked: RequestFacts, bucket: str) -> None:
    made = limit() if by is None else limit(by=by)
    assert made.bucket(asked, "::ffff:10.0.0.7") == bucket


@given(st.text(max_size=300).map(lambda text: text.replace("\r", "").replace("\n", "")))
def test_names_of_buckets_are_short_and_printable(text: str) -> None:
    field = text.encode("utf-8", "surrogatepass")
    asked = RequestFacts("GET", "web", 80, "/", ((b"x-user", field),))
    name = limit(by={"header": "x-user"}).bucket(asked, "")
    assert len(name) <= 100
    assert name.isascii()
    assert name.isprintable() or not name


def test_different_long_names_are_different_buckets() -> None:
    made = limit(by={"header": "x-user"})
    assert made.bucket(facts(x_user="a" * 200), "") != made.bucket(facts(x_user="a" * 199 + "b"), "")


def test_buckets_are_bounded_and_the_one_longest_unused_goes_first() -> None:
    buckets, made = Buckets(most=3), limit(1)
    for name in "abc":
        assert buckets.take(made, "web", name, 0) == 0
    assert buckets.take(made, "web", "a", 0) > 0
    assert buckets.take(made, "web", "d", 0) == 0  # in place of b
    assert len(buckets) == 3
    assert buckets.take(made, "web", "a", 0) > 0
    assert buckets.take(made, "web", "b", 0) == 0


def test_services_count_for_themselves_and_what_is_gone_is_forgotten() -> None:
    buckets, made = Buckets(), limit(1)
    assert [buckets.take(made, service, "", 0) == 0 for service in ("a", "b", "a")] == [True, True, False]
    buckets.forget({made.key})
    assert buckets.take(made, "a", "", 0) > 0
    buckets.forget(())
    assert len(buckets) == 0


def keys(policy: str) -> list[str]:
    documents = read_bytes(policy.encode(), "test.yaml")
    snapshot = build(1, {each.policy.service: normalize(each.policy) for each in documents})
    service = snapshot.services["web"]
    return [made.key for route in (*service.routes, service.own) if (made := route.rate_limit) is not None]


def test_routes_share_the_documents_limit_and_have_their_own_apart() -> None:
    one, two, three, own = keys(
        "service: web\nrate_limit: {requests: 1, per: 1s}\n"
        "routes: [{match: {path: /a}}, {match: {path: /b}, rate_limit: {requests: 1, per: 1s}},"
        " {match: {path: /c}, rate_limit: {requests: 1, per: 1s}}]"
    )
    assert one == own
    assert len({one, two, three}) == 3


def test_a_limit_keeps_its_state_where_other_things_change() -> None:
    before = keys("service: web\nroutes: [{match: {path: /b}, rate_limit: {requests: 1, per: 1s}}]")
    after = keys(
        "service: web\ntimeout: 1s\nroutes: [{match: {path: /n}}, {match: {path: /b}, rate_limit: {requests: 1, per: 1s}}]"
    )
    other = keys("service: web\nroutes: [{match: {path: /b}, rate_limit: {requests: 2, per: 1s}}]")
    assert before == after != other


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{per: 1s}", "rate_limit.requests: missing: write a whole number from 1 to 1000000000"),
        ("{requests: 1}", "rate_limit.per: missing: write a duration"),
        ("{requests: 0, per: 1s}", "rate_limit.requests: at least 1, got 0"),
        ("{requests: 1, per: 0}", "rate_limit.per: write a duration above 0"),
        ("{requests: 1, per: 1s, burst: 0}", "rate_limit.burst: at least 1, got 0"),
        ("{requests: 1, per: 1s, by: user}", "rate_limit.by: write source, client_ip or {header: x-user}"),
        ("{requests: 1, per: 1s, by: {heder: a}}", "rate_limit.by.heder: unknown field: did you mean header?"),
        ("{requests: 1, per: 1s, without_redis: deny}", "rate_limit.without_redis: only scope: mesh asks Redis"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(f"service: web\nrate_limit: {text}".encode(), "test.yaml")
    assert f": {problem}" in str(caught.value)
