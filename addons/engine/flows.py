"""mitmproxy's own flow objects, made without the checks of their constructors.

The constructors check every field's type and make a random id, which together
costs more than all else that the engine does for a request. Here the same
classes are filled with the same values; tests/test_engine_flows.py compares
them field by field with what the constructors make.
"""

import itertools
import os
from typing import Any

from mitmproxy import connection, http

from addons.engine.wire import Fields

_counter = itertools.count(int.from_bytes(os.urandom(4)))
_prefix = ""


def _new_prefix() -> None:
    global _prefix
    seed = os.urandom(8).hex()
    _prefix = f"{seed[:8]}-{seed[8:12]}-4{seed[12:15]}-8{os.urandom(2).hex()[:3]}-"


_new_prefix()
# Workers are forked from one parent: each needs ids of its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_prefix)


def make_id() -> str:
    """Unique and in the form of a UUID; not unguessable."""
    return f"{_prefix}{next(_counter) & 0xFFFFFFFFFFFF:012x}"


def make_headers(fields: Fields) -> http.Headers:
    headers = http.Headers.__new__(http.Headers)
    headers.fields = fields
    return headers


def make_request(
    host: str,
    port: int,
    scheme: bytes,
    method: bytes,
    path: bytes,
    version: bytes,
    fields: Fields,
    content: bytes | None,
    timestamp: float,
) -> http.Request:
    """As http.Request(..., authority=b"", trailers=None). Without content its end is yet to come."""
    data = http.RequestData.__new__(http.RequestData)
    data.__dict__ = {
        "http_version": version,
        "headers": make_headers(fields),
        "content": content,
        "trailers": None,
        "timestamp_start": timestamp,
        "timestamp_end": None if content is None else timestamp,
        "host": host,
        "port": port,
        "method": method,
        "scheme": scheme,
        "authority": b"",
        "path": path,
    }
    request = http.Request.__new__(http.Request)
    request.data = data
    return request


def make_response(
    version: bytes, status: int, reason: bytes, fields: Fields, content: bytes | None, timestamp: float
) -> http.Response:
    """As http.Response(..., trailers=None). Without content its end is yet to come."""
    data = http.ResponseData.__new__(http.ResponseData)
    data.__dict__ = {
        "http_version": version,
        "headers": make_headers(fields),
        "content": content,
        "trailers": None,
        "timestamp_start": timestamp,
        "timestamp_end": None if content is None else timestamp,
        "status_code": status,
        "reason": reason,
    }
    response = http.Response.__new__(http.Response)
    response.data = data
    return response


def make_flow(
    client: connection.Client, server: connection.Server, request: http.Request, timestamp: float
) -> http.HTTPFlow:
    """As http.HTTPFlow(client, server, live=True), with its request."""
    flow = http.HTTPFlow.__new__(http.HTTPFlow)
    values: dict[str, Any] = {
        "id": make_id(),
        "client_conn": client,
        "server_conn": server,
        "live": True,
        "timestamp_created": timestamp,
        "intercepted": False,
        "_resume_event": None,
        "_backup": None,
        "marked": "",
        "is_replay": None,
        "metadata": {},
        "comment": "",
        "request": request,
        # Of the class otherwise, where Python takes longer to find them; they are asked for again and again.
        "response": None,
        "error": None,
        "websocket": None,
    }
    flow.__dict__ = values
    return flow
