"""The store against real servers: what is written, what is read, what happens when things break."""

import asyncio

import pytest

from control.store import Hint, NodeReport, Store, StoreError, Update
from tests.conftest import Valkey


async def test_smoke(redis_url: str) -> None:
    store = Store(redis_url)
    assert await store.revision() == 0
    hints = store.hints()
    assert await anext(hints) is None
    change = await store.change(lambda s: {"a": "1", "b": "2"}, author="me", message="first")
    assert change.revision == 1
    assert await anext(hints) == Hint(1, ("a", "b"))
    assert (await store.read()).documents == {"a": "1", "b": "2"}
    assert await store.read_since(0, ["a", "b"]) == Update(1, {"a": "1", "b": "2"}, False)
    await store.change(lambda s: {"a": None}, author="me", message="second")
    assert await store.read_since(1, ["a"]) == Update(2, {"a": None}, False)
    assert await store.read_since(0, None) == Update(2, {"a": None, "b": "2"}, False)
    assert await store.read_since(5, None) == Update(2, {"b": "2"}, True)
    assert await store.read_since(2, None) == Update(2, {}, False)
    assert [e.message for e in await store.history()] == ["second", "first"]
    assert await store.at(1) == {"a": "1", "b": "2"}
    assert await store.at(0) == {}
    await store.report(NodeReport("n1", "svc", 2, started=1.5, addresses=("x",)), 5)
    print(await store.nodes())
    assert await store.progress(["n1", "n2"]) == {"n1": (2, "")}
    await store.forget("n1")
    assert await store.nodes() == []
    await hints.aclose()
    await store.close()
