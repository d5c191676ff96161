"""One JSON line per exchange, with the fields and flags of Envoy's access log."""

import json
import logging
import random
import sys
import time
from pathlib import Path

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from addons.engine.carrier import carrier_of
from addons.engine.wire import value
from addons.exchange import Attempt, Exchange, exchange_of
from addons.log_writer import LogWriter

logger = logging.getLogger("mesh.access_log")

_MOST_KNOWN = 4096


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

    def http_connect_error(self, flow: http.HTTPFlow) -> None:
        # A tunnel that was refused; what goes on inside one that was not has lines of its own.
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
        status = flow.response.data.status_code if flow.response is not None else None
        if rule is None or rule.wants(status, self._random):
            self._writer.write(line(flow, exchange))


def line(flow: http.HTTPFlow, exchange: Exchange) -> str:
    """The exchange as one line of JSON. `duration_ms` is the whole exchange, `upstream_ms` its tries without the pauses.

    Spelled out instead of json.dumps of a dictionary: this runs for every request and takes a third of the time.
    """
    request, response, facts = flow.request, flow.response, exchange.facts
    ended = exchange.ended = time.perf_counter()
    sent, received = exchange.sizes = sizes(flow, exchange)
    if facts is not None:
        host, path = f"{facts.host}:{facts.port}", facts.target
    else:
        host, path = f"{request.host}:{request.port}", request.path
    attempts = exchange.attempts
    if len(attempts) == 1:
        upstream = f"{attempts[0].ms:.3f}"
        tries = _attempt(attempts[0], upstream)
    else:
        tries = ",".join([_attempt(attempt, f"{attempt.ms:.3f}") for attempt in attempts])
        upstream = f"{sum([attempt.ms for attempt in attempts]):.3f}" if attempts else "null"
    agent = value(request.data.headers.fields, b"user-agent")
    who, where = _fixed(exchange)
    return (
        f'{{"time":"{_clock.stamp(exchange.wall)}"{who}'
        f',"method":{_text(request.data.method.decode("latin-1"))},"host":{_text(host)},"path":{_text(path)}'
        f',"protocol":{_text(request.data.http_version.decode("latin-1"))}'
        f',"status":{"null" if response is None else response.data.status_code}'
        f',"flags":"{",".join(exchange.flags) or "-"}","bytes_in":{received},"bytes_out":{sent}'
        f',"duration_ms":{(ended - exchange.started) * 1000:.3f},"upstream_ms":{upstream}'
        f',"attempts":[{tries}]{where}'
        f',"request_id":{_text(exchange.request_id)}'
        f',"user_agent":{"null" if agent is None else _text(agent.decode("utf-8", "surrogateescape"))}}}'
    )


_Known = tuple[object, object, int | None, tuple[str, str, str, str, str, str | None], tuple[str, str]]
_known: dict[tuple[int, int], _Known] = {}


def _fixed(exchange: Exchange) -> tuple[str, str]:
    """The parts of a line that all exchanges of a route, version and revision share, spelled once for them.

    Known by identity, and the objects are kept with the spelling: an id can only be reused once they are gone.
    """
    route, share = exchange.route, exchange.share
    version = None if share is None else share.version or _reached(exchange)
    # Its number, not the snapshot: what is kept here must not keep a policy of the past.
    revision = exchange.snapshot.revision if exchange.snapshot is not None else None
    whose = (exchange.node, exchange.service, exchange.source, exchange.peer, exchange.tls, version)
    key = (id(route), id(share))
    known = _known.get(key)
    if (
        known is not None
        and known[0] is route
        and known[1] is share
        and known[2] == revision
        and known[3] == whose
    ):
        return known[4]
    node, service, source = map(_text, whose[:3])
    peer, tls = (_text(text) if text else "null" for text in whose[3:5])
    who = f',"node":{node},"service":{service},"source":{source},"peer":{peer},"tls":{tls}'
    where = (
        f',"route":{"null" if route is None else _text(route.label)}'
        f',"version":{"null" if version is None else _text(version)}'
        f',"revision":{"null" if revision is None else revision}'
    )
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[key] = (route, share, revision, whose, (who, where))
    return who, where


def sizes(flow: http.HTTPFlow, exchange: Exchange) -> tuple[int, int]:
    """Bytes of the bodies: sent to the client, received from it."""
    sent, received = exchange.bytes_out, exchange.bytes_in
    carrier = carrier_of(flow)
    if carrier is not None:
        sent = carrier.sent
        received = carrier.upload.sent if carrier.upload is not None else carrier.received
    response = flow.response
    if not sent and response is not None:
        sent = len(response.data.content or b"")
    return sent, received or len(flow.request.data.content or b"")


def _reached(exchange: Exchange) -> str | None:
    """Where a route takes all versions together, the one of the last endpoint."""
    last = exchange.attempts[-1].endpoint if exchange.attempts else None
    return None if last is None else last.version


def _attempt(attempt: Attempt, ms: str) -> str:
    if attempt.error is not None:
        told = f'"error":"{attempt.error}","detail":{_text(attempt.detail)}'
    else:
        told = f'"status":{attempt.status or "null"}'
    injected = ',"injected":true' if attempt.injected else ""
    return f'{{"endpoint":{_text(attempt.address)},"ms":{ms},{told}{injected}}}'


class _Clock:
    """Times of day in RFC 3339 with milliseconds; the second is spelled once."""

    def __init__(self) -> None:
        self._second = -1
        self._spelled = ""

    def stamp(self, wall: float) -> str:
        second = int(wall)
        if second != self._second:
            self._second = second
            self._spelled = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._spelled}.{int((wall - second) * 1000):03d}+00:00"


_clock = _Clock()
_text = json.encoder.encode_basestring
