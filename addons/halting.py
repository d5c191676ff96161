"""mitmproxy's own dispatch of events, but that no addon is passed over for another's failure, nor the mesh for AddonHalt.

AddonHalt keeps addons from an event, here as in the fast lane, and never the mesh: mitmproxy would skip its features with
the others, since they stand behind them, and then send by itself what nobody has routed or judged.
"""

import inspect

from mitmproxy import exceptions, hooks
from mitmproxy.addonmanager import AddonManager, traverse

from addons.engine.hook_calls import FAILURES, hook_of, is_its_own, log
from addons.engine.marks import is_of_the_mesh


def halt_others_only(manager: AddonManager) -> None:
    """For good: what stands in for the mesh once it is unloaded has to be heard as well."""

    async def trigger_event(event: hooks.Hook) -> None:
        halted = False
        for addon in traverse(manager.chain):
            if halted and not is_of_the_mesh(addon):
                continue
            hook = hook_of(addon, event.name)
            if hook is None:
                continue
            try:
                result = hook(*event.args())
                if result is not None and inspect.isawaitable(result):
                    await result
            except exceptions.AddonHalt:
                if is_of_the_mesh(addon):
                    return
                halted = True
            except exceptions.OptionsError:
                raise
            except FAILURES as error:
                if not is_its_own(error, hook):
                    raise
                log("trigger_event")

    manager.trigger_event = trigger_event  # type: ignore[method-assign]
