"""Whatever is sent, given up and broken off: each connection is pooled, in use or closed, and the books say so."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from addons.engine.client import Client
from addons.engine.errors import UpstreamError
from addons.engine.pool import Pool
from tests.engine_peers import HELLO, OK, assert_sound, peer, run

ANSWERS = {
    b"/ok": HELLO,
    b"/last": OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
    b"/silent": b"",
    b"/half": OK + b"Content-Length: 10\r\n\r\nhello",
    b"/bad": b"220 smtp.example ESMTP\r\n",
    b"/garbage": HELLO + b"HTTP/1.1 200",
    b"/chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"/switch": b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"/gone": b"",
    b"/cut": OK + b"Content-Length: 10\r\n\r\nhello",
}


async def obliging(reader, writer):
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1]
        writer.write(ANSWERS[path])
        await writer.drain()
        if path in (b"/gone", b"/cut"):
            return


requests = st.fixed_dictionaries(
    {
        "path": st.sampled_from(sorted(ANSWERS)),
        "buffer": st.sampled_from([0, 4, 100]),
        "resend": st.booleans(),
        "reuse": st.sampled_from([True, True, True, False]),
        "streamed": st.booleans(),
        "turns": st.integers(0, 12),
        "then": st.sampled_from(["leave", "cancel", "await", "await and close", "close idle"]),
    }
)


async def carry_out(made: Client, origin, request) -> None:
    head = b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" % request["path"]
    call = made.send(
        origin,
        head,
        None if request["streamed"] else b"",
        method=b"GET",
        buffer=request["buffer"],
        resend=request["resend"],
        connection_reuse=request["reuse"],
    )
    if request["streamed"]:
        call.end()
    for _ in range(request["turns"]):
        await asyncio.sleep(0)
        assert_sound(made)
    stalls = request["path"] in (b"/silent", b"/half")
    match request["then"]:
        case "cancel":
            call.cancel(UpstreamError("timeout", "given up"))
        case "close idle":
            made.close_idle()
        case "await" | "await and close" if not stalls:
            try:
                answer = await call
                if request["then"] == "await and close":
                    answer.close()
                else:
                    while await answer.read():
                        pass
            except UpstreamError:
                pass
            else:
                assert request["path"] not in (b"/bad", b"/gone")
                assert request["path"] != b"/cut" or request["then"] == "await and close"
    assert_sound(made)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@settings(max_examples=60, deadline=None)
@given(st.lists(requests, max_size=12))
def test_the_books_are_right_after_everything(loop, sequence):
    async def scenario():
        made = Client(max_idle_per_origin=3)
        async with peer(obliging) as upstream:
            for request in sequence:
                await carry_out(made, upstream.origin, request)
            made.close()
            while made.stats():
                await asyncio.sleep(0)
            assert not made._connections
            assert not made._opening
            await upstream.all_closed()

    run(loop, scenario())


class Item:
    idle_since = 0.0


@given(
    st.integers(0, 4),
    st.lists(
        st.tuples(st.sampled_from(["give", "take", "expire", "remove"]), st.integers(0, 9)), max_size=40
    ),
)
def test_a_pool_is_a_stack_of_bounded_height_that_ages_from_below(limit, steps):
    pool: Pool = Pool(limit)
    model: list[Item] = []
    now = 0.0
    for step, number in steps:
        now += number
        if step == "give":
            item = Item()
            model.append(item)
            surplus = model.pop(0) if len(model) > limit else None
            assert pool.give(item, now) is surplus
        elif step == "take":
            assert pool.take() is (model.pop() if model else None)
        elif step == "expire":
            until = now - 10
            gone = [item for item in model if item.idle_since <= until]
            model = model[len(gone) :]
            assert pool.expire(until) == gone
        else:
            item = model[number % len(model)] if model else Item()
            pool.remove(item)
            pool.remove(item)
            model = [each for each in model if each is not item]
        assert pool.idle == model
        assert pool.oldest == (model[0].idle_since if model else None)
