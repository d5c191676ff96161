"""One JSON line per exchange, with the fields and flags of Envoy's access log."""

import json
import logging
import random
import sys
import time
from math import floor
from pathlib import Path
from typing import TypeVar

from mitmproxy import ctx, exceptions, http
from mitmproxy.addonmanager import Loader

from addons.engine.carrier import carrier_of
from addons.engine.wire import value
from addons.exchange import Attempt, Exchange, exchange_of
from addons.log_writer import LogWriter

logger = logging.getLogger("mesh.access_log")

_MOST_KNOWN = 4096
_LONGEST_KNOWN = 1000
"""Characters of what is kept."""

K = TypeVar("K")
V = TypeVar("V")


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
        if self._writer is not None and flow.websocket is None:
            self._log(flow)

    def http_connect_error(self, flow: http.HTTPFlow) -> None:
        # A tunnel that was refused; what goes on inside one that was not has lines of its own.
        self._log(flow)

    def mesh_refused(self, flow: http.HTTPFlow) -> None:
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
        writer, route, response = self._writer, exchange.route, flow.response
        if writer is None:
            return
        rule = route.access_log if route is not None else None
        if rule is None or rule.wants(
            response.data.status_code if response is not None else None, self._random
        ):
            writer.write(line(flow, exchange))


def line(flow: http.HTTPFlow, exchange: Exchange) -> str:
    """The exchange as one line of JSON. `duration_ms` is the whole exchange, `upstream_ms` its tries without the pauses.

    Spelled out instead of json.dumps of a dictionary: this runs for every request and takes a fraction of the time.
    """
    request, response, facts = flow.request, flow.response, exchange.facts
    ended = exchange.ended = time.perf_counter()
    sent, received = exchange.sizes = sizes(flow, exchange)
    if facts is not None:
        host, port, path = facts.host, facts.port, _text(facts.target)
    else:
        # What is no request has none of them.
        host, port = request.host, request.port
        path = _text(request.path) if request.path else "null"
    data, route, share, snapshot = request.data, exchange.route, exchange.share, exchange.snapshot
    key: _Key = (
        exchange.node,
        exchange.service,
        exchange.source,
        exchange.peer,
        exchange.tls,
        data.method,
        host,
        port,
        data.http_version,
        None if response is None else response.data.status_code,
        None if route is None else route.label,
        None if share is None else share.version or _reached(exchange),
        None if snapshot is None else snapshot.revision,
    )
    who, how, where = _known.get(key) or _spell(key)
    attempts = exchange.attempts
    if (
        len(attempts) == 1
        and (attempt := attempts[0]).error is None
        and (endpoint := attempt.endpoint) is not None
        and not attempt.injected
    ):
        # As below, in short; in an address of the policy there is nothing to escape.
        upstream = f"{(attempt.ended - attempt.started) * 1000:.3f}"
        tries = f'{{"endpoint":"{endpoint.address}","ms":{upstream},"status":{attempt.status or "null"}}}'
    else:
        tries = ",".join(map(_attempt, attempts))
        upstream = f"{sum([attempt.ms for attempt in attempts]):.3f}" if attempts else "null"
    flags = ",".join(exchange.flags) if exchange.flags else "-"
    agent = value(data.headers.fields, b"user-agent")
    return (
        # Most requests have no body; a number takes longer to spell than a text.
        f'{{"time":"{_clock.stamp(flow.timestamp_created)}{who}{path}{how}{flags}","bytes_in":{received or "0"}'
        f',"bytes_out":{sent},"duration_ms":{(ended - exchange.started) * 1000:.3f},"upstream_ms":{upstream}'
        f',"attempts":[{tries}]{where}{_text(exchange.request_id)}'
        f',"user_agent":{"null" if agent is None else _agents.get(agent) or _spell_agent(agent)}}}'
    )


_Key = tuple[str, str, str, str, str, bytes, str, int, bytes, int | None, str | None, str | None, int | None]
_known: dict[_Key, tuple[str, str, str]] = {}
_agents: dict[bytes, str] = {}


def _spell(key: _Key) -> tuple[str, str, str]:
    """What exchanges that are alike in all of this share: from after the time to the path, from there to the flags, and
    from the attempts to the request's id.
    """
    *names, method, host, port, protocol, status, route, version, revision = key
    node, service, source = map(_text, names[:3])
    peer, tls = (_text(text) if text else "null" for text in names[3:])
    who = (
        f'","node":{node},"service":{service},"source":{source},"peer":{peer},"tls":{tls}'
        f',"method":{_text(method.decode("latin-1")) if method else "null"}'
        f',"host":{_text(f"{host}:{port}") if host else "null"},"path":'
    )
    how = f',"protocol":{_text(protocol.decode("latin-1"))},"status":{_or_null(status)},"flags":"'
    where = (
        f',"route":{"null" if route is None else _text(route)}'
        f',"version":{"null" if version is None else _text(version)}'
        f',"revision":{_or_null(revision)},"request_id":'
    )
    # The caller chooses some of it.
    if len(who) + len(how) <= _LONGEST_KNOWN:
        _keep(_known, key, (who, how, where))
    return who, how, where


def _spell_agent(agent: bytes) -> str:
    text = _text(agent.decode("utf-8", "surrogateescape"))
    if len(text) <= _LONGEST_KNOWN:
        _keep(_agents, agent, text)
    return text


def _keep(known: dict[K, V], key: K, spelled: V) -> None:
    if len(known) >= _MOST_KNOWN:
        known.clear()
    known[key] = spelled


def _or_null(number: int | None) -> str:
    return "null" if number is None else str(number)


def sizes(flow: http.HTTPFlow, exchange: Exchange) -> tuple[int, int]:
    """Bytes of the bodies: sent to the client, received from it."""
    carrier = carrier_of(flow)
    if carrier is None:
        sent, received = exchange.bytes_out, exchange.bytes_in
    else:
        sent = carrier.sent
        received = carrier.received if carrier.upload is None else carrier.upload.sent
    if not sent and flow.response is not None and (content := flow.response.data.content):
        sent = len(content)
    if not received and (content := flow.request.data.content):
        received = len(content)
    return sent, received


def _reached(exchange: Exchange) -> str | None:
    """Where a route takes all versions together, the one of the last endpoint."""
    last = exchange.attempts[-1].endpoint if exchange.attempts else None
    return None if last is None else last.version


def _attempt(attempt: Attempt) -> str:
    if attempt.error is not None:
        told = f'"error":"{attempt.error}","detail":{_text(attempt.detail)}'
    else:
        told = f'"status":{attempt.status or "null"}'
    injected = ',"injected":true' if attempt.injected else ""
    return f'{{"endpoint":{_text(attempt.address)},"ms":{attempt.ms:.3f},{told}{injected}}}'


class _Clock:
    """Times of day in RFC 3339 with milliseconds; a second and what may follow it are spelled once."""

    def __init__(self) -> None:
        self._second = -1.0
        self._spelled = ""
        self._milliseconds = tuple([f".{number:03d}+00:00" for number in range(1000)])

    def stamp(self, wall: float) -> str:
        past = wall - self._second
        if not 0.0 <= past < 1.0:
            second = int(wall)
            self._second = float(second)
            self._spelled = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            past = wall - second
        # Not int, which takes four times as long.
        return self._spelled + self._milliseconds[floor(past * 1000.0)]


_clock = _Clock()
_text = json.encoder.encode_basestring
