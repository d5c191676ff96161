"""Gives the proxy its identity: the certificate that it shows to others, and the roots by which it checks theirs."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader

from control.identity.identity import BUNDLE, CERTIFICATE, KEY, Identity
from control.identity.names import spiffe_id

logger = logging.getLogger("mesh.certificates")

LOOK = 1.0
"""Seconds between looks at the files of mesh_identity."""


class Certificates:
    """Option: mesh_identity. Whoever opens or accepts connections asks for `identity` at each, or hears of each change."""

    def __init__(self) -> None:
        self.identity: Identity | None = None
        self.changed: list[Callable[[Identity], None]] = []
        """Called in the event loop after each change of `identity`, the first one included."""
        self._generation = 0
        self._task: asyncio.Task[None] | None = None
        self._seen: object = None

    def load(self, loader: Loader) -> None:
        loader.add_option(
            "mesh_identity", str, "", "Folder with cert.pem, key.pem and bundle.pem, as `mitmesh cert issue`"
        )

    def configure(self, updated: set[str]) -> None:
        if not updated & {"mesh_identity", "mesh_name", "mesh_service"} or not ctx.options.mesh_identity:
            return
        try:
            self._seen = self._stamp()
            self._adopt(self._read())
        except (OSError, ValueError) as error:
            raise exceptions.OptionsError(f"mesh_identity: {_reason(error)}") from None

    def running(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._follow(), name="mesh certificates")

    def done(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            if ctx.options.mesh_identity:
                self.look()

    def look(self) -> None:
        """Take what has become of the files. While they do not fit together, as when half are written, keep what is."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._adopt(self._read())
        except (OSError, ValueError) as error:
            logger.warning(f"mesh_identity: {_reason(error)}; going on with the certificate from before")

    def _read(self) -> Identity:
        identity = Identity.read(_folder(), self._generation + 1)
        mesh, service = ctx.options.mesh_name, ctx.options.mesh_service
        if identity.spiffe_id != spiffe_id(mesh, service or identity.service):
            raise ValueError(
                f"{_folder()} is of {identity.spiffe_id}, but this proxy stands for"
                f" {service or 'any service'} in mesh {mesh}"
            )
        return identity

    def _adopt(self, identity: Identity) -> None:
        self._generation = identity.generation
        self.identity = identity
        for told in self.changed:
            told(identity)

    @staticmethod
    def _stamp() -> object:
        stamps: list[tuple[int, int, int] | None] = []
        for name in (CERTIFICATE, KEY, BUNDLE):
            try:
                status = (_folder() / name).stat()
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                stamps.append(None)
        return tuple(stamps)


def _folder() -> Path:
    return Path(ctx.options.mesh_identity).expanduser()


def _reason(error: OSError | ValueError) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
