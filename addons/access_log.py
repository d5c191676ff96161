"""One JSON line per exchange, with the fields and flags of Envoy's access log."""

import json
import logging
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from addons.engine.carrier import carrier_of
from addons.exchange import Attempt, Exchange, exchange_of
from addons.log_writer import LogWriter

logger = logging.getLogger("mesh.access_log")


class AccessLog:
    """Option mesh_access_log: `-` (standard output), a path, or empty for none."""

    def __init__(self, random_source: random.Random | None = None) -> None:
        self._random = random_source or random.Random()
        self._writer: LogWriter | None = None

    def load(self, loader: Loader) -> None:
        loader.add_option("mesh_access_log", str, "-", "Access log: - for standard output, a path, or empty.")

    def configure(self, updated: set[str]) -> None:
        if "mesh_access_log" not in updated:
            return
        self.done()
        target = ctx.options.mesh_access_log
        if not target:
            return
        try:
            self._writer = LogWriter(None if target == "-" else Path(target).expanduser(), sys.stdout)
        except OSError as error:
            raise exceptions.OptionsError(
                f"mesh_access_log: cannot write {target}: {error.strerror}"
            ) from None

    def done(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def response(self, flow: http.HTTPFlow) -> None:
        if flow.websocket is None:
            self._log(flow)

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        self._log(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is not None and flow.error is not None and flow.error.msg == "Client disconnected.":
            exchange.flag("DC")
        self._log(flow)

    def _log(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or exchange.logged:
            return
        exchange.logged = True
        if self._writer is None:
            return
        rule = exchange.route.access_log if exchange.route is not None else None
        status = flow.response.status_code if flow.response is not None else None
        if rule is None or rule.wants(status, self._random):
            self._writer.write(json.dumps(entry(flow, exchange), ensure_ascii=False, separators=(",", ":")))


def entry(flow: http.HTTPFlow, exchange: Exchange) -> dict[str, Any]:
    """What one line says. `duration_ms` is the whole exchange, `upstream_ms` its attempts without the pauses."""
    request, response, facts = flow.request, flow.response, exchange.facts
    attempts = exchange.attempts
    bytes_in, bytes_out = exchange.bytes_in, exchange.bytes_out
    carrier = carrier_of(flow)
    if carrier is not None:
        bytes_in = carrier.upload.sent if carrier.upload is not None else bytes_in
        bytes_out = carrier.sent
    return {
        "time": datetime.fromtimestamp(exchange.wall, UTC).isoformat(timespec="milliseconds"),
        "node": exchange.node,
        "service": exchange.service,
        "source": exchange.source,
        "method": request.method,
        "host": f"{facts.host}:{facts.port}" if facts else f"{request.host}:{request.port}",
        "path": facts.target if facts else request.path,
        "protocol": request.http_version,
        "status": response.status_code if response is not None else None,
        "flags": ",".join(exchange.flags) or "-",
        "bytes_in": bytes_in or len(request.raw_content or b""),
        "bytes_out": bytes_out or len((response.raw_content if response else None) or b""),
        "duration_ms": round((time.perf_counter() - exchange.started) * 1000, 3),
        "upstream_ms": round(sum(attempt.ms for attempt in attempts), 3) if attempts else None,
        "attempts": [_attempt(attempt) for attempt in attempts],
        "route": exchange.route.label if exchange.route is not None else None,
        "version": exchange.share.version if exchange.share is not None else None,
        "revision": exchange.snapshot.revision if exchange.snapshot is not None else None,
        "request_id": exchange.request_id,
        "user_agent": request.headers.get("user-agent"),
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    told: dict[str, Any] = {"endpoint": attempt.address, "ms": round(attempt.ms, 3)}
    if attempt.error is not None:
        told["error"] = attempt.error
        told["detail"] = attempt.detail
    else:
        told["status"] = attempt.status
    if attempt.injected:
        told["injected"] = True
    return told
