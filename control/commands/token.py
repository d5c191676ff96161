"""mitmesh token: what a proxy joins the mesh with."""

from typing import Annotated

import typer

from control.commands.authority_options import Folder, open_authority, seconds
from control.commands.failure import Failed, usage
from control.commands.options import Mesh, Redis, target_of
from control.commands.output import say


def token(
    context: typer.Context,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="whom the token is for")],
    ttl: Annotated[str, typer.Option("--ttl", metavar="TIME", help="how long it can be used")] = "1h",
    uses: Annotated[int, typer.Option("--uses", metavar="N", help="by how many proxy processes", min=1)] = 1,
    folder: Folder = "",
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Make a join token: a proxy that has it gets the first certificate of the service.

    Give it to the proxy in the environment (MITMESH_TOKEN) or in a file
    (--set mesh_token=FILE). Each worker of `mitmesh proxy --workers N`, and each
    start anew, is one use: keys are in memory alone.
    """
    from control.identity.folders import AuthorityError
    from control.identity.names import spiffe_id
    from control.identity.tokens import MOST_USES

    target = target_of(context, redis, mesh)
    lifetime = seconds("--ttl", ttl)
    if uses > MOST_USES:
        raise usage(f"--uses {uses}: at most {MOST_USES}")
    try:
        spiffe_id(target.mesh, service)
    except ValueError as error:
        raise usage(str(error)) from None
    try:
        say(open_authority(target, folder).new_token(service, lifetime, uses))
    except AuthorityError as error:
        raise Failed(f"error: {error}") from None
