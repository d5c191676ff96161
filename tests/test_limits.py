"""Limits on what is under way, with several exchanges at once."""

import asyncio

import pytest
from mitmproxy import flow as mitmproxy_flow

from addons.deadline import Deadline
from addons.limits import Limits
from addons.routing import Routing
from tests.flows import attempted, make_flow, pinned, snapshot

WITHIN = 20.0


class World:
    def __init__(self, limits: str) -> None:
        self.snapshot = snapshot(
            f'service: web\nendpoints: ["a:1"]\nretry: 3\ncircuit_breaker: {{limits: {limits}}}'
        )
        self.limits = Limits()

    def start(self):
        """An exchange that asks to be let in; its flow, and a task that gives the answer."""
        flow = make_flow("http://web/")
        exchange = pinned(flow, self.snapshot)
        Routing().request(flow)
        deadline = Deadline(asyncio.get_running_loop())
        task = asyncio.ensure_future(self.limits.admitted(flow, exchange, deadline))
        return flow, exchange, deadline, task

    async def enter(self):
        flow, exchange, _, task = self.start()
        assert await asyncio.wait_for(task, WITHIN)
        return flow, exchange

    async def refused(self) -> str:
        flow, _, _, task = self.start()
        assert not await asyncio.wait_for(task, WITHIN)
        assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (503, "UO")
        self.limits.response(flow)
        return flow.response.text

    def used(self, limit: str) -> int:
        return sum(count for _, name, count in self.limits.usage() if name == limit)


async def test_requests_at_once():
    world = World("{requests: 2}")
    one, _ = await world.enter()
    await world.enter()
    assert await world.refused() == "the limit of 2 requests at once to service web is reached\n"
    assert world.used("requests") == 2
    world.limits.response(one)
    world.limits.error(one)
    await world.enter()
    await world.refused()


async def test_a_further_try_is_no_further_request():
    world = World("{requests: 1}")
    flow, exchange = await world.enter()
    deadline = Deadline(asyncio.get_running_loop())
    assert await world.limits.admitted(flow, exchange, deadline)
    assert world.used("requests") == 1


async def test_nothing_is_kept_when_nothing_is_under_way():
    world = World("{requests: 1, connections: 1}")
    flow, _ = await world.enter()
    await world.refused()
    world.limits.error(flow)
    assert (world.limits._usages, world.limits._held) == ({}, {})


async def test_who_waits_longest_gets_the_next_connection():
    world = World("{connections: 1}")
    first, _ = await world.enter()
    waiting = [world.start() for _ in range(3)]
    await asyncio.sleep(0)
    assert world.used("pending") == 3
    world.limits.response(first)
    assert await asyncio.wait_for(waiting[0][3], WITHIN)
    assert not waiting[1][3].done()
    world.limits.response(waiting[0][0])
    assert await asyncio.wait_for(waiting[1][3], WITHIN)
    assert world.used("connections") == 1
    world.limits.response(waiting[1][0])
    assert await asyncio.wait_for(waiting[2][3], WITHIN)
    world.limits.response(waiting[2][0])
    assert world.limits._usages == {}


@pytest.mark.parametrize("pending", [0, 1, 3])
async def test_so_many_may_wait(pending):
    world = World(f"{{connections: 1, pending: {pending}}}")
    await world.enter()
    for _ in range(pending):
        world.start()
    await asyncio.sleep(0)
    queue = f" (and {pending} requests that wait for one)" if pending else ""
    assert await world.refused() == (f"the limit of 1 connections at once{queue} to service web is reached\n")


async def test_a_pause_before_another_try_holds_no_connection():
    world = World("{connections: 1}")
    flow, exchange = await world.enter()
    _, _, _, waits = world.start()
    await asyncio.sleep(0)
    world.limits.mesh_attempt_end(flow, attempted(exchange, 503))
    await asyncio.sleep(0)
    assert not waits.done()
    world.limits.mesh_attempt_end(flow, attempted(exchange, 503, pause=0.1))
    assert await asyncio.wait_for(waits, WITHIN)
    # Its next try waits in turn.
    deadline = Deadline(asyncio.get_running_loop())
    again = asyncio.ensure_future(world.limits.admitted(flow, exchange, deadline))
    await asyncio.sleep(0)
    assert world.used("pending") == 1
    assert not again.done()
    again.cancel()


async def test_a_try_beside_another_needs_a_place_of_its_own():
    world = World("{connections: 2}")
    flow, exchange = await world.enter()
    assert world.limits.beside(exchange)
    assert not world.limits.beside(exchange)
    _, _, _, waits = world.start()
    await asyncio.sleep(0)
    assert (world.used("connections"), world.used("pending")) == (2, 1)
    world.limits.mesh_attempt_end(flow, attempted(exchange, 200))
    assert await asyncio.wait_for(waits, WITHIN)
    world.limits.mesh_attempt_end(flow, attempted(exchange, error="cancelled"))
    assert world.used("connections") == 2
    world.limits.response(flow)
    assert world.used("connections") == 1


async def test_a_request_that_is_not_limited_by_connections_may_have_as_many_tries_as_it_likes():
    world = World("{requests: 1}")
    _, exchange = await world.enter()
    assert all(world.limits.beside(exchange) for _ in range(5))
    assert world.used("connections") == 0


async def test_who_runs_out_of_time_leaves_the_queue():
    world = World("{connections: 1}")
    first, _ = await world.enter()
    flow, _, deadline, waits = world.start()
    _, _, _, next_one = world.start()
    await asyncio.sleep(0)
    deadline.start(0)
    # Its time is over, but it has not had its turn: the connection is for the one behind it.
    world.limits.response(first)
    assert not await asyncio.wait_for(waits, WITHIN)
    assert flow.response.headers["x-mesh-flag"] == "UT"
    assert await asyncio.wait_for(next_one, WITHIN)
    assert world.used("pending") == 0


async def test_who_leaves_while_waiting_or_just_granted_takes_nothing_along():
    world = World("{connections: 1}")
    first, _ = await world.enter()
    gone, _, _, waits = world.start()
    granted, _, _, late = world.start()
    await asyncio.sleep(0)
    waits.cancel()
    await asyncio.wait([waits])
    world.limits.error(gone)
    world.limits.response(first)
    late.cancel()
    await asyncio.wait([late])
    world.limits.error(granted)
    await world.enter()
    assert (world.used("connections"), world.used("pending"), world.used("requests")) == (1, 0, 1)


@pytest.mark.parametrize("error", [None, mitmproxy_flow.Error("an addon's")])
async def test_a_websocket_lasts_until_its_end(error):
    world = World("{requests: 1}")
    flow, _ = await world.enter()
    flow.error = error

    class Messages:
        timestamp_end = None

    flow.websocket = Messages()
    world.limits.response(flow)
    assert world.used("requests") == 1
    flow.websocket.timestamp_end = 1.0
    world.limits.websocket_end(flow)
    assert world.used("requests") == 0
