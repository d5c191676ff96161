"""What holds for all features together."""

import inspect

import pytest
from mitmproxy.test import taddons

from addons.chain import ahead, chain
from addons.engine.driver import taskless
from addons.engine.hooks import HookTable
from tests.flows import snapshot

HOOKS = [
    "requestheaders",
    "request",
    "responseheaders",
    "response",
    "error",
    "update",
    "mesh_attempt",
    "mesh_attempt_end",
    "mesh_forward",
    "mesh_forwarded",
    "mesh_policy",
    "mesh_refused",
    "mesh_request",
    "mesh_routed",
    "mesh_unanswered",
]


@pytest.mark.parametrize("feature", [*ahead(), *chain()], ids=lambda feature: type(feature).__name__)
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


PLAIN = {
    "requestheaders": ["MetricsPages", "PolicyFeed"],
    "request": [],
    "mesh_request": ["Routing"],
    "mesh_forward": ["Forwarder"],
    "responseheaders": [],
    "response": ["AccessLog", "Metrics"],
    "error": ["Forwarder", "AccessLog", "Metrics"],
    "mesh_routed": [],
    "mesh_attempt": [],
    "mesh_attempt_end": [],
    "mesh_forwarded": [],
    "mesh_unanswered": ["Backstop"],
    "update": [],
}


async def test_a_feature_that_no_policy_uses_is_not_called() -> None:
    """One that is called for every request has to be worth it: mark its hooks with @needs, or name it here."""
    with taddons.context() as context:
        context.master.addons.add(*ahead(), *chain())
        hooks = HookTable(context.master.addons).engine
        plain = hooks.narrowed(snapshot("service: web\nendpoints: ['10.0.0.1:80']").services["web"].own)
        # Before the routing nobody knows what there will be to do.
        found = {name: (hooks if name == "requestheaders" else plain).find(name) for name in PLAIN}
        assert {
            name: [type(hook.__self__).__name__ for hook in called] for name, called in found.items()
        } == PLAIN
