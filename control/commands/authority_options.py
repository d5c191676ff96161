"""What the commands of the certificate authority share: which folder, how long, and their errors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control.commands.failure import Failed, usage
from control.commands.options import Target
from control.policy.units import parse_duration

if TYPE_CHECKING:
    from control.identity.authority import Authority

Folder = Annotated[
    str,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="the authority's folder; by default mitmesh/ca/MESH in XDG_DATA_HOME or ~/.local/share",
    ),
]
Lifetime = Annotated[str, typer.Option(metavar="TIME", help="how long a certificate is valid")]


def folder_of(target: Target, folder: str) -> Path:
    from control.identity.folders import default_folder

    return Path(folder).expanduser() if folder else default_folder(target.mesh)


def open_authority(target: Target, folder: str) -> "Authority":
    """Raises Failed."""
    from control.identity.authority import Authority
    from control.identity.folders import AuthorityError

    try:
        return Authority.open(folder_of(target, folder), target.mesh)
    except AuthorityError as error:
        raise Failed(f"error: {error}") from None


def seconds(option: str, text: str, least: float = 0.0) -> float:
    """Of a duration such as 24h. Raises Failed."""
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise usage(f"{option} {text}: {error}") from None
    if found < least or not found:
        raise usage(f"{option} {text}: at least {least:g}s")
    return found
