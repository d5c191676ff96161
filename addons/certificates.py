"""Gives the proxy its identity: the certificate that it shows to others, and the roots by which it checks theirs."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from cryptography import x509
from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader

from addons.certificate_options import identity_of_folder, join_token, stamp
from addons.policy_feed import default_node
from addons.redis_options import REDIS_OPTIONS, redis_url
from control.identity.bundles import fingerprints
from control.identity.enrolment import Enrolment
from control.identity.identity import Identity
from control.identity.lives import Life
from control.identity.trust import Trust
from control.store import Store, StoreError

logger = logging.getLogger("mesh.certificates")

LOOK = 1.0
"""Seconds between looks at the files of mesh_identity, and at the trust bundle in Redis."""
_FIRST_LOOK = 0.2

# Of the process, not of an instance: when mesh.py is edited, its addons are made anew, and a token may be used up.
_enrolled: dict[tuple[str, str, str], Enrolment] = {}


class Certificates:
    """Options: mesh_identity, mesh_token. Whoever opens or accepts connections asks for `identity` at each."""

    def __init__(self) -> None:
        self.identity: Identity | None = None
        self.changed: list[Callable[[Identity], None]] = []
        """Called in the event loop after each change of `identity`, the first one included."""
        self.trouble = ""
        """Why there is no certificate, or no newer one; empty: nothing is missing."""
        self._generation = 0
        self._life: Life | None = None
        self._task: asyncio.Task[None] | None = None
        self._following: object = None
        self._seen: object = None
        self._trust: Trust | None = None
        self._enrolment: Enrolment | None = None
        self._warned: tuple[int, bool] | None = None

    def load(self, loader: Loader) -> None:
        told = "Folder with cert.pem, key.pem and bundle.pem, as `mitmesh cert issue` writes them."
        loader.add_option("mesh_identity", str, "", told)
        told = "Join token (`mitmesh token SERVICE`) or a file with it: certificates come through Redis."
        loader.add_option("mesh_token", str, os.environ.get("MITMESH_TOKEN", ""), told)

    def configure(self, updated: set[str]) -> None:
        options = ctx.options
        if not updated & {"mesh_identity", "mesh_token", "mesh_name", "mesh_service", *REDIS_OPTIONS}:
            return
        if options.mesh_identity and options.mesh_token:
            raise exceptions.OptionsError(
                "mesh_identity, mesh_token: give one of them (MITMESH_TOKEN counts, too)"
            )
        option = "mesh_identity" if options.mesh_identity else "mesh_token"
        try:
            if options.mesh_identity:
                self._seen = stamp()
                self._read_folder()
            elif options.mesh_token:
                self._join()
        except (OSError, ValueError) as error:
            raise exceptions.OptionsError(f"{option}: {_reason(error)}") from None

    def running(self) -> None:
        if self._task is None:
            self._following = following = object()
            # mitmproxy 12 starts a task at once, before it is known here which one it is.
            follow = self._follow(following)
            self._task = asyncio.get_running_loop().create_task(follow, name="mesh certificates")

    def done(self) -> None:
        task, self._task, self._following = self._task, None, None
        if task is not None:
            task.cancel()

    async def _follow(self, following: object) -> None:
        store, told = None, ""
        # From Python 3.12 on mitmproxy has tasks begin before whoever makes one has noted it down.
        await asyncio.sleep(0)
        try:
            # On Python 3.11 a cancellation that meets redis-py while it sends is lost; then this ends it.
            while self._following is following:
                if store is None and (self._enrolment or self._trust):
                    store = Store(redis_url(), ctx.options.mesh_name)
                try:
                    if store is not None:
                        await self.look(store)
                except StoreError as error:
                    # The policy feed tells of the same loss; here it matters only near a certificate's end.
                    self.trouble = str(error)
                if self.trouble and self.trouble != told:
                    logger.warning(self.trouble)
                told = self.trouble
                self._warn_of_the_end()
                await asyncio.sleep(_FIRST_LOOK if self._enrolment and not self.identity else LOOK)
        finally:
            if store is not None:
                await store.close()

    async def look(self, store: Store) -> None:
        """Take what has become of files, bundle and certificate. Raises StoreError."""
        if self._enrolment is not None:
            enrolment = self._enrolment
            if await enrolment.step(store):
                self._take_enrolled(enrolment)
            self.trouble = enrolment.error or enrolment.trust.error
            return
        self.look_at_files()
        if self._trust is not None and self.identity is not None:
            text = await store.bundle()
            if text and self._trust.take(text) and self._trust.bundle is not None:
                bundle = self._trust.bundle.pem
                self._adopt(replace(self.identity, bundle=bundle, generation=self._generation + 1))
            self.trouble = self._trust.error if text else ""

    # From a folder

    def look_at_files(self) -> None:
        """While they do not fit together, as when half are written, what is in force stays."""
        now = stamp()
        if now == self._seen:
            return
        self._seen = now
        try:
            self._read_folder()
        except (OSError, ValueError) as error:
            logger.warning(f"mesh_identity: {_reason(error)}; going on with the certificate from before")

    def _read_folder(self) -> None:
        identity = identity_of_folder(self._generation + 1)
        roots = fingerprints(identity.bundle)
        if self._trust is None:
            self._trust = Trust(ctx.options.mesh_name, roots)
        self._trust.trust_also(roots)
        if self._trust.bundle is not None:
            identity = replace(identity, bundle=self._trust.bundle.pem)
        self._life = Life(identity.not_before, identity.not_after)
        self._adopt(identity)

    # By a token

    def _join(self) -> None:
        options = ctx.options
        join_token()
        where = (redis_url(), options.mesh_name, options.mesh_service.lower())
        if where not in _enrolled:
            node = options.mesh_node or default_node()
            _enrolled[where] = Enrolment(options.mesh_name, options.mesh_service, node, join_token)
        self._enrolment = _enrolled[where]
        self._take_enrolled(self._enrolment)

    def _take_enrolled(self, enrolment: Enrolment) -> None:
        if enrolment.identity is not None and enrolment.identity is not self.identity:
            new = self.identity is None or enrolment.identity.certificate != self.identity.certificate
            self._life = enrolment.life
            self._adopt(enrolment.identity)
            if new:
                logger.info(
                    f"a certificate of {enrolment.identity.service} until {_clock(enrolment.identity)}"
                )

    # What is in force

    def _adopt(self, identity: Identity) -> None:
        self._generation = identity.generation
        self.identity = identity
        for told in self.changed:
            told(identity)

    def _warn_of_the_end(self) -> None:
        """Once when it is near, and once when it is there."""
        if not self.ending() or self.identity is None:
            return
        over = time.time() > self.identity.not_after
        if self._warned != (self.identity.generation, over):
            self._warned = (self.identity.generation, over)
            what = "has ended" if over else f"ends at {_clock(self.identity)}"
            why = self.trouble or (
                "mesh_identity has no newer one" if self._trust else "it was not renewed yet"
            )
            logger.warning(f"the certificate of {self.identity.service} {what}: {why}")

    def ending(self) -> bool:
        """Whether a quarter of its life or less is left."""
        return self._life is not None and self._life.ending(time.time())

    def gauges(self) -> Iterator[tuple[str, str, float]]:
        """For `Metrics.gauges`; none where no identity is wanted."""
        if self._trust is None and self._enrolment is None:
            return
        end = self.identity.not_after if self.identity is not None else 0.0
        told = "When this proxy's certificate ends, in Unix seconds; 0: it has none yet"
        yield "mitmesh_certificate_expiration_timestamp_seconds", told, end
        told = "1: a quarter of the certificate's life or less is left, and there is no newer one"
        yield "mitmesh_certificate_ending", told, self.ending()
        told = "1: no certificate, or no newer one, can be had, see the log and `mitmesh status`"
        yield "mitmesh_certificate_error", told, bool(self.trouble)

    def report(self) -> str:
        """For `PolicyFeed.reports`; empty where no identity is wanted."""
        identity, enrolment = self.identity, self._enrolment
        trust = enrolment.trust if enrolment is not None else self._trust
        if trust is None:
            return ""
        said = {"id": "", "not_after": 0.0, "obtained": 0.0, "root": "", "bundle": 0, "error": self.trouble}
        if trust.bundle is not None:
            said["bundle"] = trust.bundle.serial
        if identity is not None and self._life is not None:
            root = ""
            if trust.bundle is not None:
                root = trust.bundle.root_of(x509.load_pem_x509_certificate(identity.certificate))
            obtained = self._life.obtained
            said |= {
                "id": identity.spiffe_id,
                "not_after": identity.not_after,
                "obtained": obtained,
                "root": root,
            }
        return json.dumps(said)


def _clock(identity: Identity) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(identity.not_after))


def _reason(error: OSError | ValueError) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
