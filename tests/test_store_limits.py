"""Buckets of rate limits in real servers: the Lua counts as the Python does."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.policy.rate_limiting import compile_rate_limit, take
from control.policy.rates import RateLimit
from control.store import Store, StoreError, Wanted
from tests.conftest import Valkey


@pytest.fixture(params=["valkey_server", "redis_server"])
def server(request: pytest.FixtureRequest) -> Valkey:
    found: Valkey = request.getfixturevalue(request.param)
    found.command("FLUSHALL")
    return found


@pytest.fixture
async def store(server: Valkey) -> AsyncIterator[Store]:
    opened = Store(server.url)
    yield opened
    await opened.close()


batches = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3_000_000), st.just(-500_000)),
        st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 4), min_size=1),
    ),
    min_size=1,
    max_size=12,
)


@given(
    st.sampled_from([1, 3, 7, 1000]), st.sampled_from(["1s", "1.5s", "1m", "24h"]), st.integers(1, 6), batches
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lua_and_python_let_the_same_requests_pass(
    server: Valkey, requests: int, per: str, burst: int, batches: list[tuple[int, dict[str, int]]]
) -> None:
    limit = compile_rate_limit(
        RateLimit.model_validate({"requests": requests, "per": per, "burst": burst}), "web"
    )
    state = {"a": (0, 0), "b": (0, 0)}

    async def run() -> None:
        server.command("FLUSHALL")
        store = Store(server.url)
        now = 1_800_000_000_000_000
        try:
            for pause, batch in batches:
                now += pause
                wanted = [
                    Wanted(name, limit.cost, limit.rate, limit.capacity, count)
                    for name, count in batch.items()
                ]
                expected = []
                for name, count in batch.items():
                    granted, level, wait = take(limit, *state[name], now, count)
                    if granted or state[name] != (0, 0):
                        # Redis writes only what passed; what leaks out meanwhile comes to the same.
                        state[name] = (level, now) if granted else state[name]
                    expected.append((granted, wait))
                assert await store.take(wanted, now) == expected
        finally:
            await store.close()

    asyncio.run(run())


async def test_all_proxies_together_let_exactly_the_burst_pass(server: Valkey) -> None:
    stores = [Store(server.url) for _ in range(4)]
    try:
        answers = await asyncio.gather(
            *(store.take([Wanted("x", 60_000_000, 1, 600_000_000, 3)]) for store in stores for _ in range(8))
        )
    finally:
        for store in stores:
            await store.close()
    assert sum(granted for ((granted, _),) in answers) == 10
    assert all(0 < wait <= 60_000_000 for ((granted, wait),) in answers if granted < 3)


async def test_a_bucket_expires_when_it_is_empty_and_is_the_meshs_own(store: Store, server: Valkey) -> None:
    assert await store.take([Wanted("web:1:", 1_000_000, 1, 5_000_000, 5)]) == [(5, 0)]
    key = "{mesh}:ratelimit:web:1:"
    left = int(server.command("PTTL", key)[1:])
    assert 5000 < left <= 6000
    assert await store.take([Wanted("other", 1, 1, 1, 1)]) == [(1, 0)]
    # A refusal writes nothing, so it does not keep a bucket alive.
    server.command("PEXPIRE", key, "50000")
    ((granted, wait),) = await store.take([Wanted("web:1:", 1_000_000, 1, 5_000_000, 1)])
    assert granted == 0
    assert 0 < wait <= 1_000_000
    assert int(server.command("PTTL", key)[1:]) > 6000


async def test_a_key_of_another_kind_is_a_store_error(store: Store, server: Valkey) -> None:
    server.command("SET", "{mesh}:ratelimit:x", "1")
    with pytest.raises(StoreError):
        await store.take([Wanted("x", 1, 1, 1, 1)])
