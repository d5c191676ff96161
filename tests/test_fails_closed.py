"""A hook that enforces and breaks stops the request."""

import asyncio
import logging

import pytest

from addons.engine.driver import needs_task, taskless
from addons.fails_closed import fails_closed
from tests.flows import make_flow, pinned

logger = logging.getLogger("mesh.test")


class Feature:
    @fails_closed(logger, "limit this request")
    def plain(self, flow, error):
        if error is not None:
            raise error

    @fails_closed(logger, "limit this request")
    async def slow(self, flow, error):
        await asyncio.sleep(0)
        if error is not None:
            raise error

    @fails_closed(logger, "limit this request")
    @taskless
    async def marked(self, flow, error):
        pass


def called(name, error):
    flow = make_flow()
    exchange = pinned(flow)

    async def run():
        if (rest := getattr(Feature(), name)(flow, error)) is not None:
            await rest

    asyncio.run(run())
    return flow, exchange


@pytest.mark.parametrize("name", ["plain", "slow"])
def test_an_exception_is_an_answer_500_and_an_error_in_the_log(name, caplog):
    flow, exchange = called(name, ZeroDivisionError("a bug"))
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
    assert flow.response.text == "the mesh failed to limit this request; see the proxy's log\n"
    assert exchange.flags == ["IE"]
    assert "ZeroDivisionError: a bug" in caplog.text


@pytest.mark.parametrize("name", ["plain", "slow", "marked"])
def test_without_an_exception_nothing_happens(name):
    flow, exchange = called(name, None)
    assert (flow.response, exchange.flags) == (None, [])


def test_a_cancellation_is_no_failure():
    with pytest.raises(asyncio.CancelledError):
        called("slow", asyncio.CancelledError())


def test_the_mark_of_a_hook_that_needs_no_task_stays(monkeypatch):
    monkeypatch.setattr("addons.engine.driver._running", True)
    assert [needs_task(Feature().slow), needs_task(Feature().marked)] == [True, False]
