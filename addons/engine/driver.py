"""Runs a coroutine without an asyncio task, as long as all it waits for is futures.

A task costs several microseconds and a turn of the event loop at each wait.
Code that needs a real task around it (asyncio.timeout, wait_for, TaskGroup,
and most libraries) must not be awaited here; `isolated` gives it one.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from addons.engine.errors import ClientGone

_running = False
_EAGER = sys.version_info >= (3, 12)
"""Tasks may begin inside a Driver's step: those that start eagerly, which mitmproxy 12 makes all of its own do."""
_MARK = "mesh_taskless"
_CONTAINED = "mesh_contained"

Function = TypeVar("Function", bound=Callable[..., Any])


def taskless(function: Function) -> Function:
    """Marks an async hook that needs no task: it waits for nothing but futures, directly."""
    setattr(function, _MARK, True)
    return function


def contained(function: Function) -> Function:
    """Marks a taskless hook that lets no exception out, so that nothing has to stand around it."""
    setattr(function, _CONTAINED, True)
    return taskless(function)


def is_contained(function: Callable[..., Any]) -> bool:
    """Whether it is marked so."""
    return getattr(getattr(function, "__func__", function), _CONTAINED, False) is True


def needs_task(function: Callable[..., Any]) -> bool:
    """Whether what this function returns must be `isolated` before the code that asks awaits it."""
    # A method would raise an error before it says that its function has no such attribute.
    return _running and not getattr(getattr(function, "__func__", function), _MARK, False)


class SelfMade(asyncio.CancelledError):
    """Something foreign has ended by a cancellation that nobody asked of it, such as that of a task it waited for."""


async def isolated(awaitable: Awaitable[Any]) -> Any:
    """Await something foreign in a task of its own; if it has to be cancelled, wait until it has noticed."""
    task = asyncio.ensure_future(awaitable)
    try:
        return await task
    except BaseException as error:
        if task.cancelled() and not isinstance(error, ClientGone) and not asked_to_end(task):
            raise SelfMade("cancelled, though nobody has asked for it") from error
        if not task.done():
            over = asyncio.get_running_loop().create_future()
            task.add_done_callback(over.set_result)
            task.cancel()
            await over
        raise


def asked_to_end(task: asyncio.Future[Any] | None) -> bool:
    """Whether somebody has cancelled this task."""
    return isinstance(task, asyncio.Task) and task.cancelling() > 0


class Direct:
    """Something to await that tells when it is done by a plain call, in a Driver without a turn of the event loop."""

    __slots__ = ()

    def then(self, callback: Callable[[Any], None]) -> None:
        """Call back with itself as soon as it is done."""
        raise NotImplementedError


def is_direct(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether it is a Driver that awaits, so that a Direct may be yielded to it; a task knows futures alone."""
    return _running and (not _EAGER or asyncio.current_task(loop) is None)


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
        if isinstance(waiting, Direct):
            waiting.then(self._wake)
        elif waiting is None:
            # A bare yield, as of asyncio.sleep(0).
            asyncio.get_running_loop().call_soon(self._wake, None)
        elif getattr(waiting, "_asyncio_future_blocking", None) is not None:
            waiting._asyncio_future_blocking = False
            waiting.add_done_callback(self._wake)
        else:
            raise RuntimeError(f"awaited what is no future: {waiting!r}")

    def _wake(self, waited: Any) -> None:
        if waited is self._waiting and not self.finished:
            self._waiting = None
            self._step(None)

    def _end(self, error: BaseException | None) -> None:
        self.finished = True
        self._done(error)
