"""What holds for all features together."""

import inspect

import pytest

from addons.chain import chain
from addons.engine.driver import taskless

HOOKS = [
    "requestheaders",
    "request",
    "responseheaders",
    "response",
    "error",
    "update",
    "mesh_attempt",
    "mesh_attempt_end",
    "mesh_forwarded",
    "mesh_policy",
    "mesh_routed",
]


@pytest.mark.parametrize("feature", chain(), ids=lambda feature: type(feature).__name__)
def test_no_hook_costs_every_exchange_a_task(feature: object) -> None:
    """A plain `async def` hook would be given one in the fast lane, for nothing where it has nothing to wait for."""

    @taskless
    async def marked() -> None: ...

    marks = vars(marked).keys()
    for name in HOOKS:
        hook = getattr(feature, name, None)
        if inspect.iscoroutinefunction(hook):
            assert marks <= vars(inspect.unwrap(hook).__func__ if inspect.ismethod(hook) else hook).keys(), (
                name
            )
