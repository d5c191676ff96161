"""mitmesh ca rotate: a new root in the place of the old one, without a failed request."""

from typing import TYPE_CHECKING, Annotated

import typer

from control.commands.authority_options import Folder, open_authority
from control.commands.failure import Failed, usage
from control.commands.options import Mesh, Redis, target_of
from control.commands.output import say

if TYPE_CHECKING:
    from control.identity.authority import Authority
    from control.store import Store


def rotate(
    context: typer.Context,
    finish: Annotated[
        bool, typer.Option("--finish", help="drop the old root now, in place of a lifetime later")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="with --finish: whoever has not got the new root yet")
    ] = False,
    folder: Folder = "",
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Begin to replace the root; `mitmesh ca serve`, which has to run, goes on with it by itself.

    First every proxy learns to trust the new root beside the old one; then the new
    one signs, and every proxy gets a new certificate; after a lifetime the old one
    is dropped. `mitmesh ca status` shows how far it is.
    """
    from control.identity.folders import AuthorityError
    from control.identity.serving import publish

    target = target_of(context, redis, mesh)
    if force and not finish:
        raise usage("--force goes with --finish")
    authority = open_authority(target, folder)

    async def work(store: "Store") -> None:
        if finish:
            await _finish(authority, store, force)
        else:
            authority.begin_rotation()
        await publish(authority, store)

    try:
        target.run(work)
    except AuthorityError as error:
        raise Failed(f"error: {error}") from None
    if finish:
        say("the old root is trusted no more: the rotation is complete")
    else:
        say("a new root is trusted beside the old one; `mitmesh ca status` shows how the rotation goes on")


async def _finish(authority: "Authority", store: "Store", force: bool) -> None:
    from control.identity.rotation import Step, all_shown
    from control.identity.serving import step_of

    if not authority.state().rotating:
        raise Failed("error: no rotation is under way: begin one with `mitmesh ca rotate`")
    shown = all_shown((node.id, node.extra.get("identity", "")) for node in await store.nodes())
    step, behind = step_of(authority, 0.0, shown)
    if step is not Step.DROP and not force:
        lines = [f"error: node {node}: has not followed yet" for node in behind]
        raise Failed(*lines, f"error: {step.value}; wait, or cut off who is behind with --force")
    authority.sign_with_newest()
    authority.drop_old_roots()
