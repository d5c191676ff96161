"""mitmesh ca: the authority that signs the certificates of a mesh."""

import typer

from control.commands.authority_options import Folder, folder_of
from control.commands.failure import Failed
from control.commands.options import Mesh, Redis, target_of
from control.commands.output import say

app = typer.Typer(no_args_is_help=True, help="The authority that signs the certificates of a mesh.")


@app.command()
def init(context: typer.Context, folder: Folder = "", redis: Redis = None, mesh: Mesh = None) -> None:
    """Make the authority of a mesh: a root certificate of ten years and its key.

    The key is a file of mode 0600 in DIR, and nowhere else: keep a backup of the
    folder. Nothing is written to Redis before `mitmesh ca serve`.
    """
    from control.identity.authority import Authority, AuthorityError
    from control.identity.x509 import fingerprint

    target = target_of(context, redis, mesh)
    try:
        authority = Authority.create(folder_of(target, folder), target.mesh)
        root = authority.root(1)
    except AuthorityError as error:
        raise Failed(f"error: {error}") from None
    say(f"authority of mesh {target.mesh} in {authority.folder}")
    say(f"root {fingerprint(root)}, valid until {root.not_valid_after_utc:%Y-%m-%d}")
