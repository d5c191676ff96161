"""mitmesh ca serve: the authority at work."""

import time
from typing import TYPE_CHECKING

import typer

from control.commands.authority_options import Folder, Lifetime, open_authority, seconds
from control.commands.failure import Failed
from control.commands.options import Mesh, Redis, target_of
from control.commands.output import remark, say, warn

if TYPE_CHECKING:
    from control.identity.serving import Serving
    from control.store import Store

_PAUSE = 0.05
_AWAY = 0.5


def serve(
    context: typer.Context,
    lifetime: Lifetime = "24h",
    folder: Folder = "",
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Sign what proxies ask for through Redis, until Ctrl-C.

    A certificate is given for the service that a join token or the present
    certificate proves; a line tells of each, stderr of each refusal. Proxies renew
    at half of the lifetime, so this may be away for as long.
    """
    from control.identity.folders import AuthorityError
    from control.identity.serving import Serving

    target = target_of(context, redis, mesh)
    valid = seconds("--lifetime", lifetime, least=1.0)
    authority = open_authority(target, folder)

    async def work(store: "Store") -> None:
        serving = Serving(
            authority,
            store,
            valid,
            lambda issued: say(f"issued: {issued.service} at {issued.node}, by {issued.by}"),
            lambda refused: remark(
                f"refused: {refused.service or 'unknown'} at {refused.node or 'unknown'}: {refused.reason}",
                "red",
            ),
            say,
        )
        await _serve(serving)

    say(f"serving mesh {target.mesh} from {authority.folder}, certificates of {lifetime}")
    try:
        target.run(work)
    except AuthorityError as error:
        raise Failed(f"error: {error}") from None


async def _serve(serving: "Serving") -> None:
    import asyncio

    from control.identity.serving import LOOK
    from control.store import StoreError

    next_look, away = 0.0, False
    while True:
        try:
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK
                await serving.look_around()
            await serving.serve_waiting()
            if away:
                away = False
                remark("Redis is back")
        except StoreError as error:
            if not away:
                away = True
                warn(f"{error}; trying again")
            await asyncio.sleep(_AWAY)
        await asyncio.sleep(_PAUSE)
