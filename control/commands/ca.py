"""mitmesh ca: the authority that signs the certificates of a mesh."""

from typing import Annotated

import typer

from control.commands import ca_rotate, ca_serve, ca_status
from control.commands.authority_options import Folder, folder_of, open_authority
from control.commands.failure import Failed, usage
from control.commands.options import Mesh, Redis, target_of
from control.commands.output import say

app = typer.Typer(no_args_is_help=True, help="The authority that signs the certificates of a mesh.")


@app.command()
def init(context: typer.Context, folder: Folder = "", redis: Redis = None, mesh: Mesh = None) -> None:
    """Make the authority of a mesh: a root certificate of ten years and its key.

    The key is a file of mode 0600 in DIR, and nowhere else: keep a backup of the
    folder. Nothing is written to Redis before `mitmesh ca serve`.
    """
    from control.identity.authority import Authority
    from control.identity.folders import AuthorityError
    from control.identity.x509 import fingerprint

    target = target_of(context, redis, mesh)
    try:
        authority = Authority.create(folder_of(target, folder), target.mesh)
        root = authority.root(1)
    except AuthorityError as error:
        raise Failed(f"error: {error}") from None
    say(f"authority of mesh {target.mesh} in {authority.folder}")
    say(f"root {fingerprint(root)}, valid until {root.not_valid_after_utc:%Y-%m-%d}")


app.command()(ca_serve.serve)
app.command()(ca_status.status)
app.command()(ca_rotate.rotate)


@app.command()
def revoke(
    context: typer.Context,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="whose tokens and certificates")],
    folder: Folder = "",
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Renew no certificate of a service that it has now, and take none of its tokens.

    For a token or key that was stolen. What was stolen is still believed until it
    ends: at most the lifetime of a certificate. The service's own proxies need a
    new token (`mitmesh token SERVICE`).
    """
    from control.identity.folders import AuthorityError
    from control.identity.names import spiffe_id

    target = target_of(context, redis, mesh)
    try:
        spiffe_id(target.mesh, service)
        open_authority(target, folder).revoke(service)
    except ValueError as error:
        raise usage(str(error)) from None
    except AuthorityError as error:
        raise Failed(f"error: {error}") from None
    say(f"{service.lower()}: tokens and certificates from before now get no new certificate")
