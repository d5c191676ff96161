"""mitmproxy's own flow objects, made without the checks of their constructors.

The constructors check every field's type and make a random id, which together
costs more than all else that the engine does for a request. Here the same
classes are filled with the same values; tests/test_engine_flows.py compares
them field by field with what the constructors make.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any

from mitmproxy import connection, http
from mitmproxy.proxy import mode_specs

from addons.engine.wire import Fields

# Found at once; as an attribute of each class it is searched for.
_new = object.__new__
_HEX = tuple(f"{number:03x}" for number in range(4096))
_ids: Iterator[str]


def _number_anew() -> None:
    global _ids
    seed = os.urandom(9).hex()
    prefix = f"{seed[:8]}-{seed[8:12]}-4{seed[12:15]}-8{seed[15:]}-"
    # Numbers that count up, of parts that are spelled already: formatting one takes four times as long.
    _ids = map("".join, itertools.product((prefix,), _HEX, _HEX, _HEX, _HEX))


_number_anew()
# Workers are forked from one parent: each needs ids of its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_anew)


def make_id() -> str:
    """Unique and in the form of a UUID; not unguessable."""
    return next(_ids)


def make_headers(fields: Fields) -> http.Headers:
    headers = _new(http.Headers)
    headers.fields = fields
    return headers


# Copied for each, which takes less time than writing it out.
_REQUEST: dict[str, Any] = {
    "http_version": b"HTTP/1.1",
    "headers": None,
    "content": None,
    "trailers": None,
    "timestamp_start": 0.0,
    "timestamp_end": None,
    "host": "",
    "port": 0,
    "method": b"",
    "scheme": b"",
    "authority": b"",
    "path": b"",
}
_FLOW: dict[str, Any] = {
    "id": "",
    "client_conn": None,
    "server_conn": None,
    "live": True,
    "timestamp_created": 0.0,
    "intercepted": False,
    "_resume_event": None,
    "_backup": None,
    "marked": "",
    "is_replay": None,
    "metadata": None,
    "comment": "",
    "request": None,
    # Of the class otherwise, where Python takes longer to find them; they are asked for again and again.
    "response": None,
    "error": None,
    "websocket": None,
}


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
    headers = _new(http.Headers)
    headers.fields = fields
    data = _new(http.RequestData)
    values = data.__dict__ = _REQUEST.copy()
    values["http_version"] = version
    values["headers"] = headers
    values["timestamp_start"] = timestamp
    values["host"] = host
    values["port"] = port
    values["method"] = method
    values["scheme"] = scheme
    values["path"] = path
    if content is not None:
        values["content"] = content
        values["timestamp_end"] = timestamp
    request = _new(http.Request)
    request.data = data
    return request


def make_response(
    version: bytes, status: int, reason: bytes, fields: Fields, content: bytes | None, timestamp: float
) -> http.Response:
    """As http.Response(..., trailers=None). Without content its end is yet to come."""
    headers = _new(http.Headers)
    headers.fields = fields
    data = _new(http.ResponseData)
    data.__dict__ = {
        "http_version": version,
        "headers": headers,
        "content": content,
        "trailers": None,
        "timestamp_start": timestamp,
        "timestamp_end": None if content is None else timestamp,
        "status_code": status,
        "reason": reason,
    }
    response = _new(http.Response)
    response.data = data
    return response


def make_flow(
    client: connection.Client, server: connection.Server, request: http.Request, timestamp: float
) -> http.HTTPFlow:
    """As http.HTTPFlow(client, server, live=True), with its request."""
    flow = _new(http.HTTPFlow)
    values = flow.__dict__ = _FLOW.copy()
    values["id"] = next(_ids)
    values["client_conn"] = client
    values["server_conn"] = server
    values["timestamp_created"] = timestamp
    values["metadata"] = {}
    values["request"] = request
    return flow


# Of the constructors, whatever fields this version of mitmproxy has: all of their values are immutable.
_CLIENT = dict(vars(connection.Client(peername=("", 0), sockname=("", 0), timestamp_start=0.0)))
_SERVER = dict(vars(connection.Server(address=None)))


def make_client(
    peername: tuple[str, int], sockname: tuple[str, int], mode: mode_specs.ProxyMode, timestamp: float
) -> connection.Client:
    """As connection.Client(...) of a connection that is open."""
    client = _new(connection.Client)
    values = client.__dict__ = _CLIENT.copy()
    values["id"] = next(_ids)
    values["peername"] = peername
    values["sockname"] = sockname
    values["proxy_mode"] = mode
    values["timestamp_start"] = timestamp
    values["state"] = connection.ConnectionState.OPEN
    return client


def make_server(address: tuple[str, int] | None) -> connection.Server:
    """As connection.Server(address=address), which is not connected."""
    server = _new(connection.Server)
    values = server.__dict__ = _SERVER.copy()
    values["id"] = next(_ids)
    values["address"] = address
    return server
