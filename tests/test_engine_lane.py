"""Exchanges through the fast lane: what goes upstream, what comes back, byte by byte; addons of every kind."""

import asyncio

import pytest
from mitmproxy import exceptions, http

from tests.engine_peers import on_both_loops
from tests.engine_proxy import both, proxy, until

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def saying(data: bytes):
    return lambda request, body: data


class Hooks:
    """Notes every hook of a flow; `do` may act in them."""

    def __init__(self, do=None) -> None:
        self.seen: list[str] = []
        self.flows: list[http.HTTPFlow] = []
        self.do = do or (lambda name, flow: None)

    def _on(self, name, flow):
        self.seen.append(name)
        if not self.flows or self.flows[-1] is not flow:
            self.flows.append(flow)
        return self.do(name, flow)

    def requestheaders(self, flow):
        return self._on("requestheaders", flow)

    def request(self, flow):
        return self._on("request", flow)

    def responseheaders(self, flow):
        return self._on("responseheaders", flow)

    def response(self, flow):
        return self._on("response", flow)

    def error(self, flow):
        return self._on("error", flow)


# As one of the mesh's own: scripts with such a hook are shown small bodies whole.
Hooks.response.__module__ = "addons.hooks"


# What goes upstream


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (
            b"GET /p?q HTTP/1.1\r\nHost: up\r\nA: b\r\na: c\r\n\r\n",
            b"GET /p?q HTTP/1.1\r\nHost: up\r\nA: b\r\na: c\r\n",
        ),
        (b"GET /p HTTP/1.0\r\nHost: up\r\n\r\n", b"GET /p HTTP/1.1\r\nHost: up\r\n"),
        (b"GET http://up/p HTTP/1.0\r\n\r\n", b"GET /p HTTP/1.1\r\nHost: up\r\n"),
        (b"GET http://up/p HTTP/1.1\r\nHost: other\r\n\r\n", b"GET /p HTTP/1.1\r\nHost: up\r\n"),
        (b"GET HTTP://up:80?q HTTP/1.1\r\nA: b\r\nHost: x\r\n\r\n", b"GET /?q HTTP/1.1\r\nHost: up:80\r\nA: b\r\n"),
        (b"GET http://up HTTP/1.1\r\nHost: up\r\n\r\n", b"GET / HTTP/1.1\r\nHost: up\r\n"),
        (b"OPTIONS * HTTP/1.1\r\nHost: up\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: up\r\n"),
        (b"OPTIONS http://up HTTP/1.1\r\nHost: up\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: up\r\n"),
        (b"OPTIONS http://up/ HTTP/1.1\r\nHost: up\r\n\r\n", b"OPTIONS / HTTP/1.1\r\nHost: up\r\n"),
        (
            (
                b"GET / HTTP/1.1\r\nHost: up\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: 5\r\nX-Mine: a\r\n"
                b"Proxy-Connection: keep-alive\r\nTE: trailers\r\nUpgrade: h2c\r\nProxy-Authorization: Basic eDp5\r\n"
                b"X-Other: b\r\n\r\n"
            ),
            b"GET / HTTP/1.1\r\nHost: up\r\nX-Other: b\r\n",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: up\r\nX-Forwarded-For: 1.2.3.4\r\nVia: 1.1 x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: up\r\nX-Forwarded-For: 1.2.3.4\r\nVia: 1.1 x\r\n",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 3\r\n\r\nabc",
            b"POST / HTTP/1.1\r\nHost: up\r\ncontent-length: 3\r\n",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: up\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
            b"POST / HTTP/1.1\r\nHost: up\r\ncontent-length: 3\r\n",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: up\r\ncontent-length: 3\r\n",
        ),
        (b"POST / HTTP/1.1\r\nHost: up\r\n\r\n", b"POST / HTTP/1.1\r\nHost: up\r\ncontent-length: 0\r\n"),
        (b"DELETE / HTTP/1.1\r\nHost: up\r\nContent-Length: 0\r\n\r\n", b"DELETE / HTTP/1.1\r\nHost: up\r\n"),
        (b"GET /%2e%2e/%41?a=%zz HTTP/1.1\r\nHost: UP\r\n\r\n", b"GET /%2e%2e/%41?a=%zz HTTP/1.1\r\nHost: UP\r\n"),
        (b"GET //x/../y HTTP/1.1\r\nHost: up\r\n\r\n", b"GET //x/../y HTTP/1.1\r\nHost: up\r\n"),
    ],
)  # fmt: skip
@on_both_loops
async def test_the_head_upstream(asked, sent):
    async with both() as (made, upstream):
        client = await made.connect(asked)
        assert (await client.answer())[0] == 200
        head = bytes(upstream.bytes.partition(b"\r\n\r\n")[0]) + b"\r\n"
        fields = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"x-request-id: ")]
        assert b"\r\n".join(sorted(fields[1:])) == b"\r\n".join(sorted(sent.split(b"\r\n")[1:]))
        assert fields[0] == sent.split(b"\r\n")[0]
        assert head.lower().count(b"\r\nhost:") == 1
        assert head.lower().count(b"\r\nx-request-id:") == 1


@pytest.mark.parametrize("keep_host", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        b"GET / HTTP/1.1\r\nHost: public\r\n\r\n",
        b"GET http://public/ HTTP/1.1\r\nHost: other\r\n\r\n",
    ],
)
@on_both_loops
async def test_in_front_of_an_application(asked, keep_host):
    """In reverse mode, which knows no policy's service here, the target's name is the host unless it is kept."""
    from tests.engine_proxy import recorder

    async with recorder() as upstream:
        target = f"127.0.0.1:{upstream.port}"
        async with proxy(mode=f"reverse:http://{target}@1", keep_host=keep_host) as made:
            client = await made.connect(asked)
            assert (await client.answer())[0] == 200
            wanted = b"public" if keep_host else target.encode()
            assert dict(upstream.requests[0][0].headers)[b"host"] == wanted
            assert upstream.bytes.lower().count(b"\r\nhost:") == 1


# What comes back


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (OK, OK),
        (
            b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 200 Fine\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            (
                b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Mine\r\nKeep-Alive: 5\r\nX-Mine: a\r\nUpgrade: h2\r\n"
                b"Proxy-Connection: x\r\nTrailer: x\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
            ),
            b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: x\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: x\r\n\r\n",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, OK),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", OK.replace(b"content-l", b"Content-L")),
        (b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok", b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nHost: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
        ),
    ],
)  # fmt: skip
@on_both_loops
async def test_the_answer_to_the_client(said, told):
    async with both(reply=saying(said)) as (made, _):
        client = await made.connect(GET)
        head, _, body = told.partition(b"\r\n\r\n")
        answer = await client.head()
        assert sorted(answer.lower().split(b"\r\n")) == sorted(
            (head + b"\r\nx-mesh-attempts: 1\r\n\r\n").lower().split(b"\r\n")
        )
        assert answer.split(b"\r\n")[0] == head.split(b"\r\n")[0]
        await client.expect(body)
        client.send(GET)
        await client.head()


@on_both_loops
async def test_the_answer_to_head_has_the_fields_of_one_to_get():
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nTransfer-Encoding: x\r\n\r\n".replace(
        b"Transfer-Encoding: x\r\n", b""
    )
    async with both(reply=saying(said)) as (made, _):
        client = await made.connect((GET + GET).replace(b"GET", b"HEAD"))
        for _ in range(2):
            assert (
                await client.head()
                == b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nx-mesh-attempts: 1\r\n\r\n"
            )


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
@pytest.mark.parametrize("whole", [True, False])
@on_both_loops
async def test_an_old_client_and_a_chunked_answer(connection, whole):
    """HTTP/1.0 knows no chunks: what is here at once gets a length, else the end of the connection is the end."""
    async with both(reply=None) as (made, upstream):
        upstream.reply = saying(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
            + (b"0\r\nX-Sum: 7\r\n\r\n" if whole else b"")
        )
        client = await made.connect(b"GET / HTTP/1.0\r\nHost: up\r\n" + connection + b"\r\n")
        head = await client.head()
        assert b"transfer-encoding" not in head.lower()
        if whole:
            assert b"content-length: 2\r\n" in head
            await client.expect(b"ok")
        else:
            assert b"content-length" not in head
            await client.expect(b"ok")
            upstream.writers[0].write(b"3\r\nabc\r\n0\r\n\r\n")
            assert await client.rest() == b"abc"
        kept = whole and connection
        assert (b"connection: keep-alive" in head, b"connection: close" in head) == (bool(kept), not kept)


@on_both_loops
async def test_an_answer_that_ends_with_its_connection_is_chunked_for_the_client():
    async with both(reply=saying(b"HTTP/1.1 200 OK\r\n\r\nuntil the ")) as (made, upstream):
        client = await made.connect(GET)
        assert b"transfer-encoding: chunked" in await client.head()
        await client.expect(b"a\r\nuntil the \r\n")
        upstream.writers[0].write(b"end")
        upstream.writers[0].close()
        await client.expect(b"3\r\nend\r\n0\r\n\r\n")
        client.send(GET)
        await client.head()


@on_both_loops
async def test_trailers_pass_both_ways():
    async with both() as (made, upstream):
        upstream.reply = saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        head = b"POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n"
        client = await made.connect(head + b"3\r\nabc\r\n0\r\nX-Sum: 6\r\nContent-Type: x\r\n\r\n")
        await client.head()
        await client.expect(b"2\r\nok\r\n")
        upstream.writers[0].write(b"0\r\nX-Sum: 7\r\nSet-Cookie: x\r\n\r\n")
        await client.expect(b"0\r\nX-Sum: 7\r\n\r\n")
        assert upstream.requests[0][1:] == (b"abc", [(b"x-sum", b"6")])
        # In pieces: streamed up.
        client.send(head + b"3\r\nabc\r\n")
        await until(lambda: upstream.bytes.endswith(b"3\r\nabc\r\n"))
        client.send(b"0\r\nX-Sum: 8\r\nHost: x\r\n\r\n")
        await client.head()
        assert upstream.requests[1][1:] == (b"abc", [(b"x-sum", b"8")])


# Addons


@on_both_loops
async def test_hooks_come_in_mitmproxys_order_each_followed_by_update():
    order = []

    class Addon(Hooks):
        def update(self, flows):
            order.append(("update", flows[0].response is not None))

    addon = Addon(lambda name, flow: order.append((name, flow.response is not None)))
    async with both(addon) as (made, _):
        client = await made.connect(GET)
        await client.answer()
        await made.idle()
    assert order == [
        ("requestheaders", False),
        ("update", False),
        ("request", False),
        ("update", False),
        ("responseheaders", True),
        ("update", True),
        ("response", True),
        ("update", True),
    ]
    flow = addon.flows[0]
    assert (flow.live, flow.error, flow.response.content) == (False, None, b"ok")
    assert "mesh_carrier" not in vars(flow)


@pytest.mark.parametrize("at", ["requestheaders", "request"])
@on_both_loops
async def test_an_addon_answers(at):
    def do(name, flow):
        if name == at:
            flow.response = http.Response.make(418, b"pot", {"x-a": "b"})

    addon = Hooks(do)
    async with both(addon) as (made, upstream):
        client = await made.connect(GET + GET.replace(b"GET", b"HEAD"))
        assert await client.head() == b"HTTP/1.1 418 I'm a teapot\r\nx-a: b\r\ncontent-length: 3\r\n\r\n"
        await client.expect(b"pot")
        assert await client.head() == b"HTTP/1.1 418 I'm a teapot\r\nx-a: b\r\ncontent-length: 3\r\n\r\n"
        assert upstream.bytes == b""
        await made.idle()
        assert addon.seen == ["requestheaders", "request", "responseheaders", "response"] * 2
        assert [line["status"] for line in made.log] == [418, 418]


@pytest.mark.parametrize("at", ["requestheaders", "request", "responseheaders", "response"])
@on_both_loops
async def test_an_addon_kills(at):
    def do(name, flow):
        if name == at:
            flow.kill()

    addon = Hooks(do)
    async with both(addon) as (made, upstream):
        client = await made.connect(GET)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.head()
        await until(lambda: not made.connections)
        await made.idle()
        told = ["requestheaders", "request", "responseheaders", "response"]
        told = told[: told.index(at) + 1]
        assert addon.seen == told + (["error"] if at != "response" else [])
        assert addon.flows[0].error.msg == "Connection killed."
        assert not addon.flows[0].live
        assert bool(upstream.bytes) == (at.startswith("response"))
        # Exactly one line, even where the snapshot was not yet pinned.
        assert len(made.log) == (0 if at == "requestheaders" and not made.log else 1)


@pytest.mark.parametrize("at", ["requestheaders", "request", "responseheaders", "response"])
@on_both_loops
async def test_an_addon_intercepts_until_it_resumes(at):
    held = []

    def do(name, flow):
        if name == at:
            flow.intercept()
            held.append(flow)

    addon = Hooks(do)
    async with both(addon) as (made, _):
        client = await made.connect(GET)
        await until(lambda: held)
        await asyncio.sleep(0.02)
        assert addon.seen[-1] == at
        held[0].request.headers["x-edited"] = "1"
        held[0].resume()
        assert (await client.answer())[0] == 200


@pytest.mark.parametrize("at", ["requestheaders", "request", "responseheaders"])
@on_both_loops
async def test_a_client_that_leaves_an_intercepted_flow(at):
    held = []

    def do(name, flow):
        if name == at:
            flow.intercept()
            held.append(flow)

    addon = Hooks(do)
    async with both(addon) as (made, _):
        client = await made.connect(GET)
        await until(lambda: held)
        client.reset()
        await until(lambda: not made.connections)
        assert addon.seen.count("error") == 1
        assert held[0].error.msg == "Client disconnected."
        await made.idle()


def fail():
    raise LookupError("no luck")


def cancelled():
    raise asyncio.CancelledError("no luck")


async def cancelled_later():
    await asyncio.sleep(0)
    raise asyncio.CancelledError("no luck")


async def waits_for_what_is_cancelled():
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel("no luck")
    await task


def a_cancelled_future():
    future = asyncio.get_running_loop().create_future()
    future.cancel("no luck")
    return future


@pytest.mark.parametrize("at", ["requestheaders", "request", "responseheaders", "response", "error"])
@pytest.mark.parametrize(
    "deed", [fail, cancelled, cancelled_later, waits_for_what_is_cancelled, a_cancelled_future]
)
@on_both_loops
async def test_one_addons_failure_is_not_anothers(deed, at, caplog):
    class First:
        pass

    setattr(First, at, lambda self, flow: deed())
    second = Hooks(lambda name, flow: flow.kill() if at == "error" and name == "request" else None)
    async with both(First(), second) as (made, _):
        client = await made.connect(GET)
        if at == "error":
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.head()
        else:
            assert (await client.answer())[0] == 200
        await made.idle()
        assert at in second.seen
        assert "no luck" in caplog.text


@pytest.mark.parametrize("at", ["requestheaders", "request", "responseheaders", "response"])
@on_both_loops
async def test_a_hook_that_is_cancelled_ends_the_exchange_for_all(at):
    """As when the process ends: what that hook was there for was not done, so nothing is sent without it."""
    waiting = []

    class First:
        pass

    async def wait(self, flow):
        waiting.append(asyncio.current_task())
        await asyncio.Event().wait()

    setattr(First, at, wait)
    # Of the user's, so that it is behind the other.
    second = type("Second", (Hooks,), {"response": lambda self, flow: self._on("response", flow)})()
    async with both(First(), second) as (made, upstream):
        client = await made.connect(GET)
        await until(lambda: waiting)
        waiting[0].cancel()
        assert (await client.answer())[0] == 500
        assert await client.rest() == b""
        assert second.seen[-1] == "error"
        assert at not in second.seen
        assert bool(upstream.bytes) == at.startswith("response")
        await made.idle()


@on_both_loops
async def test_addon_halt_ends_the_event_for_those_behind():
    class First:
        def response(self, flow):
            raise exceptions.AddonHalt

    class Second(Hooks):
        def response(self, flow):
            return self._on("response", flow)

    second = Second()
    async with both(First(), second) as (made, _):
        client = await made.connect(GET)
        assert (await client.answer())[0] == 200
        assert second.seen == ["requestheaders", "request", "responseheaders"]


@pytest.mark.parametrize("at", ["requestheaders", "request", "responseheaders", "response"])
@on_both_loops
async def test_async_hooks_may_use_all_of_asyncio(at):
    """Time-outs, groups and most libraries need a task around them."""
    done = []

    async def work(flow):
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.sleep(0), 5)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        assert asyncio.current_task() is not None
        done.append(flow)

    addon = Hooks(lambda name, flow: work(flow) if name == at else None)
    async with both(addon) as (made, _):
        client = await made.connect(GET + GET)
        for _ in range(2):
            assert (await client.answer())[0] == 200
        assert len(done) == 2


@pytest.mark.parametrize("at", ["requestheaders", "request", "responseheaders"])
@on_both_loops
async def test_a_client_that_leaves_an_async_hook(at):
    """The hook is cancelled and may clean up; then, and only then, `error`."""
    order = []

    async def wait(flow):
        try:
            await asyncio.wait_for(asyncio.get_running_loop().create_future(), 60)
        finally:
            await asyncio.sleep(0.01)
            order.append("cleaned up")

    def do(name, flow):
        if name == at:
            order.append("waiting")
            return wait(flow)
        if name == "error":
            order.append("error")
        return None

    async with both(Hooks(do)) as (made, _):
        client = await made.connect(GET)
        await until(lambda: order)
        client.reset()
        await until(lambda: not made.connections)
        assert order == ["waiting", "cleaned up", "error"]
        await made.idle()


@on_both_loops
async def test_a_client_that_leaves_an_async_response_hook_changes_nothing():
    """The outcome is told to all, once: whoever counts must not be skipped."""
    go = asyncio.Event()
    waiting = []

    async def wait():
        waiting.append(1)
        await go.wait()

    addon = Hooks(lambda name, flow: wait() if name == "response" else None)
    async with both(addon) as (made, _):
        client = await made.connect(GET)
        await until(lambda: waiting)
        client.reset()
        await asyncio.sleep(0.02)
        go.set()
        await until(lambda: not made.connections)
        assert addon.seen == ["requestheaders", "request", "responseheaders", "response"]
        assert [line["status"] for line in made.log] == [200]


@on_both_loops
async def test_an_addon_puts_another_request_in_its_place():
    def do(name, flow):
        if name == "requestheaders":
            flow.request = http.Request.make(
                "POST", "http://up/other", b"", {"Host": "up", "x-new": "1", "Content-Length": "3"}
            )

    async with both(Hooks(do)) as (made, upstream):
        client = await made.connect(b"POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 3\r\n\r\n")
        await until(lambda: made.connections)
        client.send(b"abc")
        assert (await client.answer())[0] == 200
        request, body, _ = upstream.requests[0]
        assert (bytes(request.target), body, dict(request.headers)[b"x-new"]) == (b"/other", b"abc", b"1")


@pytest.mark.parametrize("at", ["responseheaders", "response"])
@pytest.mark.parametrize("streamed", [True, False])
@on_both_loops
async def test_an_addon_puts_another_response_in_its_place(at, streamed):
    def do(name, flow):
        if name == at:
            flow.response = http.Response.make(299, b"mine")

    said = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nnot all" if streamed else OK
    addon = Hooks(do)
    async with both(addon, reply=saying(said)) as (made, upstream):
        client = await made.connect(GET)
        if at == "response" and streamed:
            # Its head has gone out already.
            assert b" 200 " in await client.head()
            return
        assert await client.answer() == (299, b"mine")
        client.send(GET)
        await client.answer()
        if streamed:
            await until(lambda: upstream.closed == 2)
        await made.idle()


@on_both_loops
async def test_an_addon_closes_by_a_field_and_its_framing_is_made_true():
    def do(name, flow):
        if name == "response":
            flow.response.headers["connection"] = "close"
            flow.response.headers["transfer-encoding"] = "chunked"
            flow.response.headers["content-length"] = "7"
            flow.response.content = b"longer than that"
            flow.response.headers["content-length"] = "7"

    async with both(Hooks(do)) as (made, _):
        client = await made.connect(GET)
        answer = await client.rest()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert body == b"longer than that"
        assert head.lower().count(b"content-length: 16") == 1
        assert b"transfer-encoding" not in head
        assert head.count(b"connection: close") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda flow: flow.response.headers.add("x-a", "b\r\nx-injected: 1"),
        lambda flow: setattr(flow.response, "reason", "OK\r\nx-injected: 1"),
        lambda flow: setattr(flow.response, "status_code", 101),
    ],
)
@on_both_loops
async def test_an_answer_that_cannot_be_sent_is_a_500(change, caplog):
    addon = Hooks(lambda name, flow: change(flow) if name == "response" else None)
    async with both(addon) as (made, _):
        # It finds that out in time, unless an addon stands behind it.
        made.master.addons.remove(made.master.addons.get("sendable"))
        client = await made.connect(GET)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"\r\nx-mesh-flag: IE\r\n" in answer
        assert b"x-injected" not in answer
        assert "cannot be sent" in caplog.text


@on_both_loops
async def test_without_an_addon_that_answers():
    addon = Hooks()
    async with both(addon) as (made, _):
        made.master.addons.remove(made.forwarder)
        client = await made.connect(GET)
        assert (await client.rest()).startswith(b"HTTP/1.1 500 ")
        assert addon.seen == ["requestheaders", "request", "error"]


@on_both_loops
async def test_an_addon_that_comes_later_is_called():
    addon = Hooks()
    async with both() as (made, _):
        client = await made.connect(GET)
        await client.answer()
        made.master.addons.add(addon)
        client.send(GET)
        await client.answer()
        assert addon.seen == ["requestheaders", "request", "responseheaders", "response"]


@on_both_loops
async def test_a_flow_knows_its_upstream():
    addon = Hooks()
    async with both(addon) as (made, upstream):
        client = await made.connect(GET + GET)
        for _ in range(2):
            await client.answer()
        one, two = (flow.server_conn for flow in addon.flows)
        assert one is two
        assert one.address == one.peername == ("127.0.0.1", upstream.port)
        assert one.sockname[0] == "127.0.0.1"
        assert one.connected
        assert one.timestamp_start == one.timestamp_tcp_setup > 1_700_000_000
        assert addon.flows[0].get_state()["server_conn"]["address"] == ("127.0.0.1", upstream.port)


@on_both_loops
async def test_a_request_that_would_come_back_is_stopped():
    """Whoever asks a proxy without a proxy's URL names the proxy itself as the host."""
    async with both() as (made, _):
        made.master.addons.get("proxyserver").listen_addrs = lambda: [("127.0.0.1", made.port)]
        client = await made.connect(b"GET / HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % made.port)
        status, body = await client.answer()
        assert (status, b"this proxy itself" in body) == (503, True)
        assert len(made.connections) <= 2


@pytest.mark.parametrize("method", [b"CONNECT up:443", b"BREW /"])
@on_both_loops
async def test_what_the_engine_does_not_serve_goes_to_whoever_does(method):
    asked = method + b" HTTP/1.1\r\nHost: up\r\n\r\nand more"
    async with both() as (made, _):
        client = await made.connect(GET)
        await client.answer()
        client.send(asked)
        await client.expect(b"taken back")
        assert made.taken_back == [asked]
        for each in made.connections:
            each.take_back = None
        client = await made.connect(GET)
        await client.answer()
        (here,) = made.connections
        here.take_back = None
        client.send(asked)
        assert (await client.rest()).startswith(b"HTTP/1.1 501 ")
