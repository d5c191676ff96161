"""What an addon has made unfit to be sent is answered with 500, and told as that."""

import pytest
from mitmproxy import http

from addons.engine.hooks import HookTable
from addons.sendable import Sendable
from tests.engine_peers import on_both_loops
from tests.engine_proxy import both, until
from tests.flows import loaded
from tests.test_engine_lane import GET, saying

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"


class Spoiling:
    """Does `change` in the hook that it is told."""

    def __init__(self, at: str, change) -> None:
        setattr(self, at, change)


CHANGES = [
    lambda flow: flow.response.headers.add("x-a", "b\r\nx-injected: 1"),
    lambda flow: flow.response.headers.add("x-a", "b\0"),
    lambda flow: setattr(flow.response, "reason", "OK\r\nx-injected: 1"),
    lambda flow: setattr(flow.response, "status_code", 101),
    lambda flow: setattr(flow.response.data, "status_code", "200"),
    lambda flow: setattr(flow.response, "trailers", http.Headers(x_a="b\r\nx-injected: 1")),
    lambda flow: setattr(flow, "response", http.Response.make(200, b"mine", {"x-a": "\n"})),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("at", ["responseheaders", "response"])
@on_both_loops
async def test_an_answer_that_cannot_be_sent_is_a_500_for_all(change, at, caplog):
    async with both(Spoiling(at, change)) as (made, _):
        client = await made.connect(GET)
        for _ in range(2):
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 500 ")
            assert b"x-mesh-flag: IE\r\n" in head
            assert b"x-injected" not in head
            await client.expect(b"the answer cannot be sent; see the proxy's log\n")
            client.send(GET)
        await client.head()
        await made.idle()
        assert [(line["status"], line["flags"], line["bytes_out"]) for line in made.log] == [
            (500, "IE", 47)
        ] * 3
        assert "cannot be sent" in caplog.text


@on_both_loops
async def test_an_addons_own_answer_is_looked_at_too():
    def answer(flow):
        flow.response = http.Response.make(200, b"", {"x-a": "\r"})

    async with both(Spoiling("request", answer)) as (made, upstream):
        client = await made.connect(GET)
        assert (await client.answer())[0] == 500
        await made.idle()
        assert [(line["status"], line["flags"]) for line in made.log] == [(500, "IE")]
        assert upstream.requests == []


@on_both_loops
async def test_what_streams_is_found_out_before_its_head_goes():
    """And told as what the client got."""

    def spoil(flow):
        flow.response.stream = True
        flow.response.headers["x-a"] = "\n"

    async with both(Spoiling("responseheaders", spoil), reply=saying(CHUNKED)) as (made, _):
        client = await made.connect(GET)
        assert (await client.rest()).startswith(b"HTTP/1.1 500 ")
        await made.idle()
        assert [(line["status"], line["flags"]) for line in made.log] == [(500, "IE")]


@pytest.mark.parametrize("copied", [True, False])
@on_both_loops
async def test_what_has_streamed_is_told_as_it_was_sent(copied):
    def let_stream(flow):
        if copied:
            flow.response = flow.response.copy()
        flow.response.stream = True

    addon = Spoiling("response", lambda flow: flow.response.headers.add("x-a", "\n"))
    addon.responseheaders = let_stream
    async with both(addon, reply=saying(CHUNKED)) as (made, upstream):
        client = await made.connect(GET)
        await client.head()
        upstream.writers[0].write(b"0\r\n\r\n")
        await client.expect(b"2\r\nok\r\n0\r\n\r\n")
        await made.idle()
        assert [(line["status"], line["flags"]) for line in made.log] == [(200, "-")]


@on_both_loops
async def test_an_upgrade_that_was_granted_is_told_as_such():
    addon = Spoiling("responseheaders", lambda flow: setattr(flow, "response", flow.response.copy()))
    said = b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    async with both(addon, reply=saying(said)) as (made, upstream):
        client = await made.connect(
            b"GET / HTTP/1.1\r\nHost: up\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        )
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        client.writer.write_eof()
        upstream.writers[0].close()
        assert await client.rest() == b""
        await until(lambda: made.log)
        assert [(line["status"], line["flags"]) for line in made.log] == [(101, "-")]


@on_both_loops
async def test_a_whole_answer_that_broke_off_is_told_as_what_the_client_got():
    addon = Spoiling("response", lambda flow: None)
    async with both(addon, reply=saying(CHUNKED), policy="timeout: 100ms") as (made, _):
        client = await made.connect(GET)
        assert (await client.rest()).startswith(b"HTTP/1.1 504 ")
        await made.idle()
        assert [(line["status"], line["flags"]) for line in made.log] == [(504, "UT")]


@pytest.mark.parametrize(("others", "called"), [([], []), ([Spoiling("request", len)], ["Sendable"])])
def test_nobody_looks_where_nobody_spoils(others, called):
    with loaded(*others, Sendable()) as context:
        hooks = HookTable(context.master.addons).engine
        assert [type(hook.__self__).__name__ for hook in hooks.find("response")] == called
