"""What is answered by the engine itself: what is no request, and what can go no further."""

import asyncio
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from mitmproxy import connection, http

from addons.engine.destination import split_authority, split_target
from addons.engine.errors import BadRequest
from addons.engine.flows import make_flow, make_request, make_response
from addons.engine.narrowed_hooks import Hooks
from addons.engine.wire import Fields, answer_head, value

if TYPE_CHECKING:
    from addons.engine.client_link import ClientLink

_TEXT, _CLOSE = (b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")


def answer_to(refusal: BadRequest) -> bytes:
    """The last answer on its connection."""
    body = _body(refusal)
    fields = (*_fields(refusal), (b"content-length", b"%d" % len(body)), _CLOSE)
    return answer_head(refusal.status, _reason(refusal), fields) + body


class Refusals:
    """Lets addons know by `mesh_refused(flow)` of what was refused before it was an exchange."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._tasks: set[asyncio.Future[None]] = set()

    def tell(self, client: "ClientLink", refusal: BadRequest) -> None:
        flow = refused_flow(client.tag, refusal, time.time() - (client.clock() - client.since))
        if (rest := self._hooks.run("mesh_refused", flow)) is not None:
            task = asyncio.ensure_future(rest)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


def refused_flow(
    pair: tuple[connection.Client, connection.Server], refusal: BadRequest, began: float
) -> http.HTTPFlow:
    """A flow that was never under way; what is not known of its request is empty. began: by time.time."""
    host, port, method, path, version = "", 0, b"", b"", b"HTTP/1.1"
    fields: Fields = ()
    if (request := refusal.request) is not None:
        method, fields = request.method, request.fields
        version = request.version or version
        host, port, path = _place(request.target, fields)
    made = make_request(host, port, b"http", method, path, version, fields, b"", began)
    flow = make_flow(*pair, made, began)
    flow.live = False
    flow.response = make_response(
        b"HTTP/1.1", refusal.status, _reason(refusal), _fields(refusal), _body(refusal), time.time()
    )
    return flow


def _place(target: bytes, fields: Fields) -> tuple[str, int, bytes]:
    """Host, port and path as far as they can be read; "" and 0 where the host cannot."""
    named, path, scheme = value(fields, b"host") or b"", target, b"http"
    try:
        if not target.startswith((b"/", b"*")):
            scheme, named, path = split_target(target)
        return *split_authority(named, 443 if scheme == b"https" else 80), path
    except BadRequest:
        return "", 0, path


def _reason(refusal: BadRequest) -> bytes:
    return HTTPStatus(refusal.status).phrase.encode()


def _fields(refusal: BadRequest) -> Fields:
    return (_TEXT, (b"x-mesh-flag", refusal.flag.encode()))


def _body(refusal: BadRequest) -> bytes:
    return refusal.reason.encode() + b"\n"
