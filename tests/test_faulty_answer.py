"""A spoilt answer, fed by hand: what its reader gets, and who is told of its end."""

import asyncio
from random import Random

import pytest

from addons.engine.answer import Answer
from addons.engine.errors import UpstreamError
from addons.faulty_answer import FaultyAnswer
from control.policy.shaping import Corruption, Shape

WITHIN = 20.0
BODY = bytes(range(200))


class Source(Answer):
    """An upstream's answer: these pieces, then its end or the error."""

    def __init__(self, *pieces: bytes, error: Exception | None = None, complete: bool = False, **fields: str):
        self.status, self.reason, self.http_version, self.head_at = 200, b"OK", b"HTTP/1.1", 0.0
        self.fields = tuple((name.replace("_", "-").encode(), text.encode()) for name, text in fields.items())
        self.connection = None
        self.body = pieces[0] if pieces else b""
        self.complete, self.upgraded, self.trailers = complete, False, None
        self.pieces = list(pieces[1:])
        self.error = error
        self.asked = 0
        self.closed = asyncio.Event()

    async def read(self) -> bytes:
        self.asked += 1
        if self.pieces:
            return self.pieces.pop(0)
        if self.error == "silence":
            await self.closed.wait()
            raise UpstreamError("reset", "closed by the proxy")
        if self.error is not None:
            raise self.error
        self.trailers = ((b"x-end", b"1"),)
        return b""

    def close(self) -> None:
        self.closed.set()


class Told:
    def __init__(self) -> None:
        self.cut = self.over = 0

    def of(self, source: Source, **shape) -> FaultyAnswer:
        def cut() -> None:
            self.cut += 1

        def over() -> None:
            self.over += 1

        return FaultyAnswer(source, Shape(**shape), cut, over)


async def all_of(answer: Answer) -> bytes:
    got = answer.body
    while data := await asyncio.wait_for(answer.read(), WITHIN):
        got += data
    return got


async def test_it_is_whole_where_nothing_is_cut():
    told = Told()
    answer = told.of(Source(BODY, BODY, BODY), bandwidth=10**9, truncate=600)
    assert (answer.complete, answer.body, answer.as_it_comes, answer.closes) == (False, b"", True, False)
    assert await all_of(answer) == BODY * 3
    assert answer.trailers == ((b"x-end", b"1"),)
    assert (told.cut, told.over) == (0, 1)
    answer.close()
    assert told.over == 1


@pytest.mark.parametrize("pieces", [[BODY * 3], [BODY, BODY, BODY], [b"", BODY * 3], [BODY, BODY, b"x"]])
@pytest.mark.parametrize("least", [0, 1, 200, 250, 400])
async def test_it_is_cut_after_so_many_bytes(pieces, least):
    told = Told()
    source = Source(*pieces)
    answer = told.of(source, truncate=least)
    got = b""
    with pytest.raises(UpstreamError) as broken:
        while data := await asyncio.wait_for(answer.read(), WITHIN):
            got += data
    assert got == b"".join(pieces)[:least]
    assert broken.value.kind == "reset"
    assert source.closed.is_set()
    assert (told.cut, told.over) == (1, 1)


async def test_a_known_length_is_told_so_that_the_cut_is_seen():
    assert (b"content-length", b"200") in Told().of(Source(BODY, complete=True), truncate=3).fields
    kept = Told().of(Source(BODY, content_length="999"), truncate=3).fields
    assert kept == ((b"content-length", b"999"),)
    assert Told().of(Source(BODY), truncate=3).fields == ()


async def test_an_upstream_that_breaks_off_is_passed_on_as_that():
    told = Told()
    answer = told.of(Source(BODY, error=UpstreamError("reset", "why")), bandwidth=10**9)
    with pytest.raises(UpstreamError, match="why"):
        await all_of(answer)
    assert (told.cut, told.over) == (0, 1)


async def test_flipped_bytes_do_not_depend_on_the_pieces():
    def corruption() -> tuple[Corruption, ...]:
        return (Corruption(5, Random(1)),)

    whole = await all_of(Told().of(Source(BODY + BODY), corruptions=corruption()))
    pieces = await all_of(Told().of(Source(BODY, BODY), corruptions=corruption(), bandwidth=10**6))
    assert whole == pieces != BODY + BODY


@pytest.mark.parametrize("shape", [{"bandwidth": 1}, {"slow_close": 3600.0}])
async def test_a_wait_ends_when_the_fault_is_taken_back(shape):
    answer = Told().of(Source(BODY, complete=True), **shape)
    assert answer.closes is ("slow_close" in shape)
    reading = asyncio.ensure_future(all_of(answer))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reading.done()
    answer.reshape(Shape())
    assert await asyncio.wait_for(reading, WITHIN) == BODY


@pytest.mark.parametrize("source", ["throttled", "silent"])
async def test_it_can_be_ended_from_outside(source):
    told = Told()
    made = Source(BODY) if source == "throttled" else Source(error="silence")
    answer = told.of(made, bandwidth=1)
    assert answer.head_seen
    reading = asyncio.ensure_future(all_of(answer))
    for _ in range(5):
        await asyncio.sleep(0)
    answer.cancel(UpstreamError("timeout", "time ran out"))
    with pytest.raises(UpstreamError) as ended:
        await asyncio.wait_for(reading, WITHIN)
    assert ended.value.kind == "timeout"
    assert (made.closed.is_set(), told.over) == (True, 1)


async def test_who_waits_for_more_is_told_that_it_was_closed():
    told = Told()
    answer = told.of(Source(BODY, complete=True), slow_close=3600.0)
    reading = asyncio.ensure_future(all_of(answer))
    for _ in range(5):
        await asyncio.sleep(0)
    answer.close()
    with pytest.raises(UpstreamError, match="closed by the proxy"):
        await asyncio.wait_for(reading, WITHIN)
    assert told.over == 1


async def test_the_upstream_is_not_read_ahead():
    source = Source(BODY, BODY, BODY)
    answer = Told().of(source, bandwidth=20 * 200)
    assert await asyncio.wait_for(answer.read(), WITHIN) == BODY
    assert source.asked == 0
