"""A streamed body, spoilt piece by piece; its upstream is a transport that notes what it is told."""

import asyncio
from random import Random

import pytest

from addons.spoilt_stream import SpoiltStream
from control.policy.shaping import Corruption, Shape

WITHIN = 20.0


class Transport:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


def made(before=True, **shape):
    cuts: list[int] = []
    transport = Transport()
    stream = SpoiltStream(Shape(**shape), before, transport, lambda: cuts.append(1), lambda: 0.0)
    return stream, transport, cuts


@pytest.mark.parametrize(
    ("pieces", "given", "cut"),
    [
        ([b"abc", b"de", b""], [b"abc", b"de", []], 0),
        ([b"abcde", b""], [b"abcde", []], 0),
        ([b"abc", b"def", b"g", b""], [b"abc", b"de", [], []], 1),
        ([b"abcdefgh", b"i"], [b"abcde", []], 1),
    ],
)
async def test_it_is_cut_after_five_bytes(pieces, given, cut):
    stream, _, cuts = made(truncate=5)
    assert [stream(piece) for piece in pieces] == given
    assert (len(cuts), stream.broken) == (cut, bool(cut))


async def test_an_addons_own_stream_comes_after_it():
    stream, _, _ = made(before=lambda piece: [piece, b"!"], truncate=2)
    assert stream(b"abc") == [b"ab", b"!"]


async def test_bytes_are_flipped():
    stream, _, _ = made(corruptions=(Corruption(100, Random(1)),))
    assert all(a != b for a, b in zip(b"abc", stream(b"abc"), strict=True))


async def test_a_throttled_upstream_waits_and_is_let_go():
    stream, transport, _ = made(bandwidth=1)
    assert stream(b"x" * 3600) == b"x" * 3600
    assert transport.told == ["pause"]
    stream.reshape(Shape())
    assert transport.told == ["pause", "resume"]
    assert stream(b"y") == b"y"
    assert transport.told == ["pause", "resume"]


async def test_an_upstream_that_has_ended_is_left_alone():
    stream, transport, _ = made(bandwidth=1)
    transport.closing = True
    stream(b"x" * 3600)
    stream.reshape(Shape())
    assert transport.told == []


async def test_its_end_waits_until_the_fault_is_taken_back():
    stream, _, _ = made(slow_close=3600.0)
    ending = asyncio.ensure_future(stream.ended())
    await asyncio.sleep(0)
    assert not ending.done()
    stream.reshape(Shape())
    await asyncio.wait_for(ending, WITHIN)


async def test_its_end_comes_by_itself():
    stream, _, _ = made(slow_close=0.001)
    await asyncio.wait_for(stream.ended(), WITHIN)
    stream, _, _ = made(truncate=9)
    await asyncio.wait_for(stream.ended(), WITHIN)
