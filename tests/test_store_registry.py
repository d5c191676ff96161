"""Registrations in a real Valkey: by its own clock, told to everybody, and never believed when they are nonsense."""

import asyncio
import json
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control import store_registry
from control.policy.endpoints import Registered
from control.store import Store
from control.store_records import Moved
from control.store_registry import Registration, by_service, read_registration, write_registration
from tests.conftest import StartValkey

WEB = Registration("web", Registered("v1", "10.0.0.1:80", True, 2.0))
LONG = 60.0
SHORT = 0.05


@pytest.fixture
async def store(valkey_url, monkeypatch):
    # As if somebody had looked all the time: what is tried here is what happens then.
    monkeypatch.setattr(store_registry, "QUIET", 10**15)
    made = Store(valkey_url, f"m{id(monkeypatch)}")
    yield made
    await made.close()


@pytest.fixture
def valkey_url(start_valkey: StartValkey):
    return start_valkey().url


async def look(store: Store, state: str = "") -> tuple[str, dict[str, Registration] | None]:
    return await store.registered(state, SHORT)


async def until_gone(store: Store, node: str) -> dict[str, Registration]:
    async with asyncio.timeout(20):
        while node in ((found := await look(store))[1] or {}):
            await asyncio.sleep(0.01)
        assert found[1] is not None
        return found[1]


async def test_what_is_registered_is_read_until_its_time_is_over(store):
    state, nobody = await look(store)
    assert nobody == {}
    await store.register("a", WEB, LONG)
    await store.register("b", WEB, LONG)
    state, found = await look(store, state)
    assert found == {"a": WEB, "b": WEB}
    assert await store.registrations() == found
    await store.register("b", WEB, SHORT)
    assert await until_gone(store, "b") == {"a": WEB}
    assert await store.registrations() == {"a": WEB}


async def test_registering_again_keeps_it_and_is_no_news(store):
    await store.register("a", WEB, LONG)
    state, _ = await look(store)
    await store.register("a", WEB, LONG)
    assert (await look(store, state))[1] is None
    other = Registration("web", Registered("v2", "10.0.0.1:80"))
    await store.register("a", other, LONG)
    assert (await look(store, state))[1] == {"a": other}


async def test_who_leaves_is_gone_at_once(store):
    await store.register("a", WEB, LONG)
    state, _ = await look(store)
    await store.deregister("a", LONG)
    await store.deregister("never there", LONG)
    assert (await look(store, state))[1] == {}


async def test_coming_leaving_and_dying_are_published(store):
    async with aclosing(store.hints_and_moves()) as heard:
        assert await anext(heard) is None
        await store.register("a", WEB, LONG)
        assert await anext(heard) == Moved()
        await store.register("b", WEB, SHORT)
        assert await anext(heard) == Moved()
        await until_gone(store, "b")
        assert await anext(heard) == Moved()
        await store.deregister("a", LONG)
        assert await anext(heard) == Moved()
        await store.change(lambda stored: {"web": "{}"}, author="a", message="")
        assert (await anext(heard)).services == ("web",)  # type: ignore[union-attr]


async def test_policy_s_hints_are_not_disturbed_by_it(store):
    async with aclosing(store.hints()) as heard:
        await anext(heard)
        await store.register("a", WEB, LONG)
        await store.change(lambda stored: {"web": "{}"}, author="a", message="")
        assert (await anext(heard)).services == ("web",)


async def test_after_a_silence_nobody_is_taken_for_dead(store, monkeypatch):
    """A Redis that stood still: registrations grew old with nobody able to say that they are alive."""
    await store.register("a", WEB, SHORT)
    state, _ = await look(store)
    await asyncio.sleep(2 * SHORT)
    monkeypatch.setattr(store_registry, "QUIET", 10)
    assert (await store.registered(state, LONG))[1] is None
    # The time that it gives to be told again is over at some point.
    monkeypatch.setattr(store_registry, "QUIET", 10**15)
    assert (await store.registered(state, LONG))[1] is None


async def test_a_redis_that_has_lost_its_memory_has_another_epoch(valkey_url, store, start_valkey):
    await store.register("a", WEB, LONG)
    state, _ = await look(store)
    await store._run(store_registry.Script("return redis.call('FLUSHALL')"), store._registry_keys())
    later, nobody = await look(store, state)
    assert nobody == {}
    assert later.partition("-")[0] != state.partition("-")[0]


@given(
    st.builds(
        Registration,
        st.sampled_from(["web", "a.b"]),
        st.builds(
            Registered,
            st.sampled_from(["v1", "default"]),
            st.sampled_from(["10.0.0.1:80", "[::1]:8080", "web.example:1"]),
            st.booleans(),
            st.floats(0, 100),
        ),
    )
)
def test_what_is_written_reads_back(registration):
    assert read_registration(write_registration(registration)) == registration


@pytest.mark.parametrize(
    "change",
    [
        {"service": ""},
        {"service": 7},
        {"version": "a b"},
        {"address": "web"},
        {"address": "web:99999"},
        {"address": "http://web:80"},
        {"address": None},
        {"weight": -1},
        {"weight": "x"},
        {"weight": 1e12},
    ],
)
def test_nonsense_is_nobody(change):
    said = json.loads(write_registration(WEB))
    assert read_registration(json.dumps(said)) == WEB
    assert read_registration(json.dumps({**said, **change})) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", "7"])
def test_what_is_no_registration_is_nobody(text):
    assert read_registration(text) is None


def test_workers_that_share_a_port_are_one_endpoint():
    other = Registration("web", Registered("v1", "10.0.0.2:80"))
    assert by_service({"a-2": WEB, "a-1": WEB, "b": other, "c": Registration("db", WEB.endpoint)}) == {
        "db": (WEB.endpoint,),
        "web": (WEB.endpoint, other.endpoint),
    }
