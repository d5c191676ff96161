"""Answers /metrics, /healthz and /readyz: at http://mesh.local through any port of the proxy, and at a port of its own."""

import asyncio
import logging
import os
from collections.abc import Awaitable
from typing import NamedTuple

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from addons.answers import made_answer
from addons.fast_lane import OWN_HOST
from addons.forwarder import Forwarder
from addons.metrics import Metrics
from addons.metrics_picture import Photographer
from addons.metrics_port import MetricsPort
from addons.metrics_text import text_of
from addons.policy_feed import PolicyFeed
from addons.workers import WORKER

logger = logging.getLogger("mesh.metrics_pages")

PATHS = ("/metrics", "/healthz", "/readyz")
_PLAIN = "text/plain; charset=utf-8"


class Page(NamedTuple):
    status: int
    body: bytes
    content_type: str = _PLAIN


class MetricsPages:
    """Option mesh_metrics_port. Stands before everything else: it answers without a policy, and nobody counts or logs it."""

    def __init__(self, metrics: Metrics, feed: PolicyFeed, forwarder: Forwarder) -> None:
        self._feed = feed
        self._photographer = Photographer(metrics, feed, forwarder)
        self._port: MetricsPort | None = None
        self._place: tuple[str, int] | None = None
        self._draining = False
        self._runs = False

    def load(self, loader: Loader) -> None:
        loader.add_option(
            "mesh_metrics_port",
            int,
            0,
            "Port for /metrics, /healthz and /readyz; 0: none. Worker N listens on this port + N - 1.",
        )

    def configure(self, updated: set[str]) -> None:
        if self._runs and updated & {"mesh_metrics_port", "listen_host"}:
            self._listen()

    def running(self) -> None:
        # Not before: the options of a command line arrive one after the other.
        self._runs = True
        try:
            self._listen()
        except exceptions.OptionsError as error:
            logger.error(str(error))

    def _listen(self) -> None:
        """Raises OptionsError when the port cannot be had."""
        port = ctx.options.mesh_metrics_port
        if port:
            port += int(os.environ.get(WORKER, "1")) - 1
        place = (ctx.options.listen_host, port) if port else None
        if place == self._place:
            return
        self.done()
        self._place = place
        if place is not None:
            try:
                self._port = MetricsPort(*place, self.page)
            except (OSError, OverflowError) as error:
                self._place = None
                raise exceptions.OptionsError(
                    f"mesh_metrics_port: cannot listen on {place[0] or '*'}:{port}: {error}; choose another port"
                ) from None

    def done(self) -> None:
        port, self._port, self._place = self._port, None, None
        if port is not None:
            port.close()

    def mesh_drain(self) -> None:
        """The proxy takes no new connections any more and finishes what runs."""
        self._draining = True

    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        host = flow.request.data.host
        if len(host) != len(OWN_HOST) or host.lower() != OWN_HOST or flow.response is not None:
            return None
        return self._answer(flow)

    async def _answer(self, flow: http.HTTPFlow) -> None:
        request = flow.request
        page = await self.page(request.method, request.path, request.headers.get("accept", ""))
        fields = ((b"content-type", page.content_type.encode()),)
        flow.response = made_answer(request, page.status, page.body, fields)
        # Nothing of the mesh comes after this: no policy is needed, and no line in the log.
        raise exceptions.AddonHalt

    async def page(self, method: str, target: str, accept: str) -> Page:
        """What there is at a path."""
        path = target.partition("?")[0]
        if path not in PATHS:
            return Page(404, f"here are {', '.join(PATHS)}\n".encode())
        if method not in ("GET", "HEAD"):
            return Page(405, b"only GET and HEAD\n")
        if path == "/healthz":
            return Page(200, b"ok\n")
        if path == "/readyz":
            return self._readiness()
        picture = self._photographer.take()
        # Thousands of lines take a while to write; requests go on meanwhile.
        body, content_type = await asyncio.to_thread(text_of, picture, accept)
        return Page(200, body, content_type)

    def _readiness(self) -> Page:
        sync = self._feed.sync
        if self._draining:
            return Page(503, b"not ready: draining, no new connections are taken\n")
        if sync is None or sync.snapshot is None:
            why = f": {sync.error}" if sync is not None and sync.error else ""
            return Page(503, f"not ready: no policy in force yet{why}\n".encode())
        return Page(200, f"ready: revision {sync.snapshot.revision} in force\n".encode())
