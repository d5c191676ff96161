"""Faults beneath retries, through the whole chain: what comes out is what arithmetic says, and a seed repeats it."""

import pytest

from tests.engine_proxy import both

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
RETRY = "retry: {attempts: %d, on: [5xx], backoff: {base: 0, max: 0}}\n"


async def statuses(policy: str, count: int) -> tuple[list[int], list[int], int]:
    """Of so many requests over one connection: each one's status and tries; and what reached the service."""
    async with both(policy=policy) as (made, upstream):
        client = await made.connect()
        found = []
        for _ in range(count):
            client.send(GET)
            found.append((await client.answer())[0])
        tries = [len(line["attempts"]) for line in made.log]
        return found, tries, len(upstream.requests)


@pytest.mark.parametrize("tries", [1, 4])
async def test_retries_over_aborts_succeed_as_often_as_arithmetic_says(tries):
    count, share = 2000, 0.3
    found, attempts, arrived = await statuses(
        RETRY % tries + "faults: [{abort: 503, percent: 30, seed: 7}]", count
    )
    expected = 1 - share**tries
    sigma = (count * expected * (1 - expected)) ** 0.5
    assert abs(found.count(200) - count * expected) <= 3 * sigma
    assert set(found) == {200, 503}
    # What failed never went out, and what went out was answered.
    assert arrived == found.count(200)
    assert max(attempts) == tries
    mean = (1 - share**tries) / (1 - share)
    assert abs(sum(attempts) / count - mean) < 0.1


async def test_the_same_seed_gives_the_same_sequence():
    def policy(seed: int) -> str:
        faults = f"faults: [{{abort: 503, percent: 30, seed: {seed}}}, {{abort: 500, percent: 20, seed: {seed + 1}}}]"
        return RETRY % 2 + faults

    first, again, other = [await statuses(policy(seed), 300) for seed in (7, 7, 8)]
    assert first == again
    assert first != other
    assert set(first[0]) == {200, 500, 503}
