"""Noticing a client that has left."""

import asyncio

from mitmproxy.connection import ConnectionState

from addons import client_watch
from addons.client_watch import ClientWatch
from addons.deadline import Deadline
from tests.flows import make_flow


async def test_a_client_that_ends_its_side_has_left(monkeypatch):
    monkeypatch.setattr(client_watch, "INTERVAL", 0.005)
    flow = make_flow()
    flow.client_conn.state = ConnectionState.OPEN
    deadline = Deadline(asyncio.get_running_loop())
    watch = ClientWatch(flow, deadline)
    pause = asyncio.ensure_future(deadline.sleep(None))
    await asyncio.sleep(0.02)
    assert not pause.done()
    flow.client_conn.state = ConnectionState.CAN_WRITE
    await asyncio.wait_for(pause, 20)
    assert deadline.abandoned
    watch.stop()


async def test_after_stop_nobody_looks(monkeypatch):
    monkeypatch.setattr(client_watch, "INTERVAL", 0.001)
    flow = make_flow()
    flow.client_conn.state = ConnectionState.CLOSED
    deadline = Deadline(asyncio.get_running_loop())
    ClientWatch(flow, deadline).stop()
    await asyncio.sleep(0.01)
    assert not deadline.abandoned
