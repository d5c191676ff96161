"""What enforces must not let a request pass because it broke: mitmproxy logs a hook's exception and goes on."""

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mitmproxy import http

from addons.answers import own_answer
from addons.exchange import exchange_of

Hook = TypeVar("Hook", bound=Callable[..., Any])


def fails_closed(logger: logging.Logger, deed: str) -> Callable[[Hook], Hook]:
    """For a hook whose first argument is the flow: if it raises, the flow is answered 500 IE. `deed`: what it failed to do."""

    def decorate(hook: Hook) -> Hook:
        @functools.wraps(hook)
        def guarded(self: Any, flow: http.HTTPFlow, *args: Any) -> Awaitable[None] | None:
            try:
                rest = hook(self, flow, *args)
            except Exception as error:
                _stop(flow, error)
                return None
            return None if rest is None else guarded_rest(rest, flow)

        async def guarded_rest(rest: Awaitable[None], flow: http.HTTPFlow) -> None:
            try:
                await rest
            except Exception as error:
                _stop(flow, error)

        def _stop(flow: http.HTTPFlow, error: Exception) -> None:
            logger.error(f"the mesh failed to {deed}; the request was stopped", exc_info=error)
            text = f"the mesh failed to {deed}; see the proxy's log"
            own_answer(flow, exchange_of(flow), 500, "IE", text)

        return guarded  # type: ignore[return-value]

    return decorate
