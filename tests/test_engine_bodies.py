"""Who looks at bodies has the answer whole before its `response` hook, however it came; up to a limit, and with ways out."""

import asyncio
import copy

import pytest
from mitmproxy.addons.modifybody import ModifyBody
from mitmproxy.addons.save import Save
from mitmproxy.addons.savehar import SaveHar
from mitmproxy.script import concurrent

from addons.engine import wishes
from tests.engine_peers import on_both_loops
from tests.engine_proxy import both, until
from tests.test_engine_lane import saying

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
GRPC = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc+proto\r\nTransfer-Encoding: chunked\r\n\r\n"
MOST = wishes.MOST


@pytest.fixture(autouse=True)
def untold():
    wishes.tell_of_long.cache_clear()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Script:
    """Marks each answer, as an addon of the user's; `at_head` may say how its body is to come."""

    def __init__(self, at_head=None) -> None:
        self.at_head = at_head
        self.heads = 0
        self.bodies: list[bytes | None] = []

    def responseheaders(self, flow):
        if self.at_head is not None:
            self.at_head(flow)
        self.heads += 1

    def response(self, flow):
        self.bodies.append(flow.response.content)
        flow.response.headers["x-late"] = "1"


class Concurrent(Script):
    @concurrent
    def response(self, flow):
        Script.response(self, flow)


Script.__module__ = Script.response.__module__ = "__mitmproxy_script__.marks"


class OfTheMesh(Script):
    def response(self, flow):
        Script.response(self, flow)


OfTheMesh.response.__module__ = "addons.marks"


@pytest.mark.parametrize("script", [Script, Concurrent])
@pytest.mark.parametrize(
    ("parts", "body"),
    [
        ((CHUNKED + b"3\r\nabc\r\n", b"0\r\n\r\n"), b"abc"),
        ((CHUNKED, b"3\r\na", b"bc\r\n0\r\n", b"\r\n"), b"abc"),
        ((CLOSED + b"ab", b"c", None), b"abc"),
        ((SIZED % 3, b"ab", b"c"), b"abc"),
        ((SIZED % 70_000 + b"x", b"y" * 69_999), b"x" + b"y" * 69_999),
        ((SIZED % MOST + b"x", b"y" * (MOST - 1)), b"x" + b"y" * (MOST - 1)),
        ((CHUNKED + chunk(b"x"), chunk(b"y" * (MOST - 1)), b"0\r\n\r\n"), b"x" + b"y" * (MOST - 1)),
    ],
)  # fmt: skip
@on_both_loops
async def test_however_the_packets_fall_it_is_whole(parts, body, script):
    addon = script()
    async with both(addon, reply=saying(parts[0])) as (made, upstream):
        client = await made.connect(GET)
        await until(lambda: addon.heads)
        for part in parts[1:]:
            if part is None:
                upstream.writers[0].close()
            else:
                upstream.writers[0].write(part)
        head = await client.head()
        assert b"x-late: 1\r\n" in head
        assert b"content-length: %d\r\n" % len(body) in head.lower()
        await client.expect(body)
        assert addon.bodies == [body]
        client.send(GET)
        await until(lambda: len(upstream.requests) == 2)


@on_both_loops
async def test_trailers_come_with_it():
    addon = Script()
    async with both(addon, reply=saying(CHUNKED + chunk(b"a"))) as (made, upstream):
        client = await made.connect(GET)
        await until(lambda: addon.heads)
        upstream.writers[0].write(b"0\r\nX-Sum: 1\r\n\r\n")
        assert b"x-late: 1\r\n" in await client.head()
        await client.expect(b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")


def says(stream):
    return lambda flow: setattr(flow.response, "stream", stream)


@pytest.mark.parametrize(
    ("addon", "head"),
    [
        (Script(), EVENTS),
        (Script(), GRPC),
        (OfTheMesh(), CHUNKED),
        (Script(says(True)), CHUNKED),
        (Script(says(lambda data: data)), CHUNKED),
    ],
)  # fmt: skip
@on_both_loops
async def test_what_cannot_wait_or_nobody_looks_at_is_passed_on_at_once(addon, head, caplog):
    addon.bodies.clear()
    async with both(addon, reply=saying(head + chunk(b"a"))) as (made, upstream):
        client = await made.connect(GET)
        assert b"x-late" not in await client.head()
        await client.expect(chunk(b"a"))
        upstream.writers[0].write(chunk(b"b") + b"0\r\n\r\n")
        await client.expect(chunk(b"b") + b"0\r\n\r\n")
        await made.idle()
        assert addon.bodies == [None]
        assert "flow.response.stream" not in caplog.text


@pytest.mark.parametrize(("at_head", "whole"), [(None, False), (says(True), False), (says(False), True)])
@pytest.mark.parametrize("sized", [True, False])
@on_both_loops
async def test_beyond_the_limit_it_streams_unless_an_addon_has_all_of_it(sized, at_head, whole, caplog):
    addon = Script(at_head)
    body = bytes(range(256)) * (2 * MOST // 256) + b"end"
    said = SIZED % len(body) + body if sized else CHUNKED + chunk(body[:-3]) + chunk(b"end") + b"0\r\n\r\n"
    async with both(addon, reply=saying(said)) as (made, _):
        client = await made.connect(GET + GET)
        for _ in range(2):
            assert await client.answer() == (200, body)
        await made.idle()
        assert addon.bodies == ([body, body] if whole else [None, None])
        assert [line["bytes_out"] for line in made.log] == [len(body)] * 2
        # Once, not for each answer, and not where an addon knew what it did.
        assert caplog.text.count("flow.response.stream = False") == (at_head is None)


@on_both_loops
async def test_what_was_gathered_goes_on_as_soon_as_it_is_too_much():
    """And the upstream is not read further than its reader reads."""
    addon = Script()
    async with both(addon, reply=saying(CHUNKED + chunk(b"x" * (MOST - 1)))) as (made, upstream):
        client = await made.connect(GET)
        await until(lambda: addon.heads)
        await asyncio.sleep(0.05)
        assert not client.reader._buffer
        upstream.writers[0].write(chunk(b"yz"))
        head = await client.head()
        assert b"x-late" not in head
        await client.expect(chunk(b"x" * (MOST - 1) + b"yz"))
        upstream.writers[0].write(chunk(b"more"))
        await client.expect(chunk(b"more"))
        upstream.writers[0].write(chunk(b"x" * 50_000_000))
        (link,) = made.connections
        await until(lambda: link.write_paused)
        await asyncio.sleep(0.1)
        assert link.transport.get_write_buffer_size() < 500_000
        assert upstream.writers[0].transport.get_write_buffer_size() > 20_000_000


def copied(flow):
    flow.response = flow.response.copy()


def restored(flow):
    flow.set_state(flow.get_state())


def reverted(flow):
    flow.backup()
    flow.revert()


def deep(flow):
    flow.response = copy.deepcopy(flow.response)


@pytest.mark.parametrize("change", [copied, restored, reverted, deep])
@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("head", [SIZED % 6, CHUNKED])
@on_both_loops
async def test_a_copy_of_the_answer_has_its_body(change, looks, head):
    addon = (Script if looks else OfTheMesh)(change)
    whole = head != CHUNKED
    async with both(addon, reply=saying(head + (b"abc" if whole else chunk(b"abc")))) as (made, upstream):
        client = await made.connect(GET)
        await until(lambda: addon.heads)
        upstream.writers[0].write(b"def" if whole else chunk(b"def") + b"0\r\n\r\n")
        assert await client.answer() == (200, b"abcdef")
        await made.idle()
        assert addon.bodies == [b"abcdef" if looks else None]
        assert [line["bytes_out"] for line in made.log] == [6]


@pytest.mark.parametrize(
    ("addon", "options"),
    [
        (ModifyBody, {"modify_body": ["/zzz/yyy"]}),
        (Save, {"save_stream_file": "flows"}),
        (SaveHar, {"hardump": "flows"}),
    ],
)
@on_both_loops
async def test_mitmproxys_own_look_where_they_are_switched_on(addon, options, tmp_path):
    made_addon = addon()
    async with both(made_addon, reply=saying(CHUNKED + chunk(b"a"))) as (made, upstream):
        client = await made.connect(GET)
        await client.head()
        await client.expect(chunk(b"a"))
        upstream.writers[0].write(b"0\r\n\r\n")
        await client.expect(b"0\r\n\r\n")
        made.master.options.update(
            **{name: str(tmp_path / value) if value == "flows" else value for name, value in options.items()}
        )
        client.send(GET)
        await until(lambda: len(upstream.requests) == 2)
        upstream.writers[0].write(b"0\r\n\r\n")
        assert b"content-length: 1\r\n" in await client.head()
        await client.expect(b"a")
