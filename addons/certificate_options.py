"""What the options mesh_identity and mesh_token name: files of an identity, and a join token."""

from pathlib import Path

from mitmproxy import ctx

from control.identity.identity import BUNDLE, CERTIFICATE, KEY, Identity
from control.identity.names import spiffe_id
from control.identity.private_files import NOT_EVERYBODY, read_secret
from control.identity.tokens import Token, read_token


def folder() -> Path:
    return Path(ctx.options.mesh_identity).expanduser()


def stamp() -> object:
    """Differs when one of the files of mesh_identity does."""
    stamps: list[tuple[int, int, int] | None] = []
    for name in (CERTIFICATE, KEY, BUNDLE):
        try:
            status = (folder() / name).stat()
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            stamps.append(None)
    return tuple(stamps)


def identity_of_folder(generation: int) -> Identity:
    """Raises OSError, and ValueError for files that do not fit together or are not of this proxy's service."""
    identity = Identity.read(folder(), generation)
    mesh, service = ctx.options.mesh_name, ctx.options.mesh_service
    if identity.spiffe_id != spiffe_id(mesh, service or identity.service):
        stands_for = f"{service or 'any service'} in mesh {mesh}"
        raise ValueError(f"{folder()} is of {identity.spiffe_id}, but this proxy stands for {stands_for}")
    return identity


def join_token() -> Token:
    """Read anew: a file may hold a new one. Raises ValueError. No token has a slash in it, so what has one is a file."""
    text = ctx.options.mesh_token
    if "/" in text:
        try:
            text = read_secret(Path(text).expanduser(), closed_to=NOT_EVERYBODY).decode("ascii", "replace")
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from None
    token = read_token(text)
    mesh, service = ctx.options.mesh_name, ctx.options.mesh_service
    if not service:
        raise ValueError(f"it is for {token.service}: say that this proxy stands for it, mesh_service")
    if (token.mesh, token.service) != (mesh, service.lower()):
        stands_for = f"{service} in mesh {mesh}"
        raise ValueError(
            f"it is for {token.service} in mesh {token.mesh}, but this proxy stands for {stands_for}"
        )
    return token
