"""AddonHalt in mitmproxy's own lane: there, too, it keeps addons from an event and never the mesh.

mitmproxy would skip the features of the mesh with the others, since they stand behind them, and then send by itself
what nobody has routed or judged.
"""

from mitmproxy import exceptions, hooks
from mitmproxy.addonmanager import AddonManager, safecall

from addons.engine.marks import is_of_the_mesh


def halt_others_only(manager: AddonManager) -> None:
    """For good: what stands in for the mesh once it is unloaded has to be heard as well."""

    async def trigger_event(event: hooks.Hook) -> None:
        halted = False
        for addon in manager.chain:
            if halted and not is_of_the_mesh(addon):
                continue
            try:
                with safecall():
                    await manager.invoke_addon(addon, event)
            except exceptions.AddonHalt:
                if is_of_the_mesh(addon):
                    return
                halted = True

    manager.trigger_event = trigger_event  # type: ignore[method-assign]
