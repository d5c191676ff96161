"""mitmesh cert: certificates by hand."""

from pathlib import Path
from typing import Annotated

import typer

from control.commands.authority_options import Folder, Lifetime, open_authority, seconds
from control.commands.failure import Failed, usage
from control.commands.options import Mesh, Redis, target_of
from control.commands.output import say

app = typer.Typer(no_args_is_help=True, help="Certificates by hand.")


@app.callback()
def certificates() -> None:
    """Keeps `issue` a word of its own although it is the only one."""


@app.command()
def issue(
    context: typer.Context,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="whom the certificate names")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="where cert.pem, key.pem, bundle.pem go")],
    lifetime: Lifetime = "24h",
    folder: Folder = "",
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Issue a certificate by hand, for tests and for clients without a proxy.

    Writes cert.pem, key.pem (mode 0600) and bundle.pem, the trusted roots, to DIR.
    A proxy takes the folder as mesh_identity. Nobody renews it: run this again
    before it ends; proxies see the new files by themselves.
    """
    from control.identity.folders import AuthorityError
    from control.identity.names import spiffe_id

    target = target_of(context, redis, mesh)
    valid = seconds("--lifetime", lifetime, least=1.0)
    try:
        spiffe_id(target.mesh, service)
    except ValueError as error:
        raise usage(str(error)) from None
    try:
        identity = open_authority(target, folder).issue(service, valid)
    except AuthorityError as error:
        raise Failed(f"error: {error}") from None
    directory = Path(out).expanduser()
    try:
        identity.write(directory)
    except OSError as error:
        raise Failed(f"error: {error.filename}: {error.strerror}") from None
    say(f"{identity.spiffe_id}: cert.pem, key.pem and bundle.pem in {directory}")
