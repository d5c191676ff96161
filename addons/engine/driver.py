"""Runs a coroutine without an asyncio task, as long as all it waits for is the engine's own.

A task costs several microseconds and a turn of the event loop at each wait.
A `Call` that is awaited here wakes its coroutine directly instead. Code that
needs a real task around it (asyncio.timeout, wait_for, TaskGroup) must not be
awaited here; `isolated` gives it one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

_running = False


def driven() -> bool:
    """Whether the code that asks is stepped by a Driver, and not by a task."""
    return _running


async def isolated(awaitable: Awaitable[Any]) -> Any:
    """Await something foreign in a task of its own."""
    task = asyncio.ensure_future(awaitable)
    try:
        return await task
    finally:
        task.cancel()


class Driver:
    """Steps one coroutine; `done(error)` is called when it ended, with what it raised, if it did."""

    __slots__ = ("_coroutine", "_done", "_stepping", "_waiting", "finished")

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], done: Callable[[BaseException | None], None]
    ) -> None:
        self._coroutine = coroutine
        self._done = done
        self._waiting: Any = None
        self._stepping = False
        self.finished = False

    def start(self) -> None:
        """Run until the first wait, perhaps to the end."""
        self._step(None)

    def throw(self, error: BaseException) -> None:
        """Raise this where the coroutine waits; nothing happens if it has ended or is running right now."""
        if not self.finished and not self._stepping:
            self._waiting = None
            self._step(error)

    def _step(self, error: BaseException | None) -> None:
        global _running
        before, _running = _running, True
        self._stepping = True
        try:
            if error is None:
                waiting = self._coroutine.send(None)
            else:
                waiting = self._coroutine.throw(error)
        except StopIteration:
            self._end(None)
            return
        except BaseException as raised:
            self._end(raised)
            return
        finally:
            _running = before
            self._stepping = False
        self._waiting = waiting
        if waiting is None:
            # A bare yield, as of asyncio.sleep(0).
            asyncio.get_running_loop().call_soon(self._wake, None)
        elif getattr(waiting, "_asyncio_future_blocking", None) is not None:
            waiting._asyncio_future_blocking = False
            waiting.add_done_callback(self._wake)
        else:
            waiting.then(self._wake)

    def _wake(self, waited: Any) -> None:
        if waited is self._waiting and not self.finished:
            self._waiting = None
            self._step(None)

    def _end(self, error: BaseException | None) -> None:
        self.finished = True
        self._done(error)
