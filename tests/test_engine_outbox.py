"""What is posted in one turn of the event loop leaves together at its end, in order."""

import asyncio

import pytest

from addons.engine.outbox import Outbox


class Transport:
    def __init__(self, told: list[tuple[str, bytes]], name: str) -> None:
        self.told = told
        self.name = name
        self.closing = self.broken = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        if self.broken:
            raise RuntimeError("broken")
        self.told.append((self.name, data))


@pytest.fixture
def told() -> list[tuple[str, bytes]]:
    return []


async def turn() -> None:
    await asyncio.sleep(0)


async def test_all_at_the_end_of_the_turn_and_in_order(told):
    outbox, a, b = Outbox(), Transport(told, "a"), Transport(told, "b")
    outbox.post(a, b"1")
    outbox.post(b, b"2")
    outbox.post(a, b"3")
    assert told == []
    await turn()
    assert told == [("a", b"1"), ("b", b"2"), ("a", b"3")]
    outbox.post(b, b"4")
    await turn()
    assert told[3:] == [("b", b"4")]


async def test_at_once_when_told_to(told):
    outbox, a = Outbox(), Transport(told, "a")
    outbox.post(a, b"1")
    outbox.flush()
    assert told == [("a", b"1")]
    outbox.post(a, b"2")
    await turn()
    await turn()
    assert told == [("a", b"1"), ("a", b"2")]


async def test_nothing_to_what_was_closed_meanwhile(told):
    outbox, a, b = Outbox(), Transport(told, "a"), Transport(told, "b")
    outbox.post(a, b"1")
    outbox.post(b, b"2")
    a.closing = True
    await turn()
    assert told == [("b", b"2")]


async def test_one_that_fails_does_not_keep_the_others(told):
    outbox, a, b = Outbox(), Transport(told, "a"), Transport(told, "b")
    a.broken = True
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    outbox.post(a, b"1")
    outbox.post(b, b"2")
    await turn()
    assert told == [("b", b"2")]
    assert [str(failure["exception"]) for failure in failures] == ["broken"]


async def test_what_a_write_posts_leaves_with_the_next_turn(told):
    outbox, b = Outbox(), Transport(told, "b")

    class Answering(Transport):
        def write(self, data: bytes) -> None:
            super().write(data)
            outbox.post(b, b"2")

    outbox.post(Answering(told, "a"), b"1")
    await turn()
    await turn()
    assert told == [("a", b"1"), ("b", b"2")]
