"""Flows made cheaply are mitmproxy's own: field by field, in its files, in mitmweb's view, copied and reverted."""

import copy
import io
import json
import os
import pickle
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import connection, flow, http
from mitmproxy import io as mitmproxy_io
from mitmproxy.addons import view
from mitmproxy.proxy import mode_specs
from mitmproxy.test import taddons
from mitmproxy.tools.web import app

from addons.engine.flows import (
    make_client,
    make_flow,
    make_headers,
    make_id,
    make_request,
    make_response,
    make_server,
)

FIELDS = (
    (b"Host", b"up"),
    (b"Set-Cookie", b"a=b"),
    (b"set-cookie", b"c=\xff"),
    (b"Content-Type", b"text/plain"),
)
NOW = 1_700_000_000.25


def sides():
    client = connection.Client(peername=("1.2.3.4", 5), sockname=("6.7.8.9", 10), timestamp_start=1.0, id="c")
    return client, connection.Server(address=("up", 80), id="s")


def cheap(content=b"body", response=True) -> http.HTTPFlow:
    request = make_request("up", 80, b"http", b"POST", b"/a?b=c", b"HTTP/1.1", FIELDS, content, NOW)
    made = make_flow(*sides(), request, NOW)
    if response:
        made.response = make_response(b"HTTP/1.1", 200, b"OK", FIELDS, content, NOW)
    return made


def usual(content=b"body", response=True) -> http.HTTPFlow:
    end = None if content is None else NOW
    made = http.HTTPFlow(*sides(), live=True)
    made.timestamp_created = NOW
    # What the class says as long as the flow does not.
    made.response, made.error, made.websocket = made.response, made.error, made.websocket
    made.request = http.Request(
        "up", 80, b"POST", b"http", b"", b"/a?b=c", b"HTTP/1.1", http.Headers(FIELDS), content, None, NOW, end
    )
    if response:
        made.response = http.Response(b"HTTP/1.1", 200, b"OK", http.Headers(FIELDS), content, None, NOW, end)
    return made


@pytest.mark.parametrize("mode", ["regular", "reverse:http://up:80@1"])
def test_connections_are_as_the_constructors_make_them(mode):
    mode = mode_specs.ProxyMode.parse(mode)
    made = make_client(("1.2.3.4", 5), ("6.7.8.9", 10), mode, NOW)
    usual = connection.Client(
        peername=("1.2.3.4", 5),
        sockname=("6.7.8.9", 10),
        id=made.id,
        timestamp_start=NOW,
        proxy_mode=mode,
        state=connection.ConnectionState.OPEN,
    )
    assert vars(made) == vars(usual)
    assert made == usual
    assert made.get_state() == usual.get_state()
    for address in (None, ("up", 80)):
        server = make_server(address)
        usual_server = connection.Server(address=address, id=server.id)
        assert vars(server) == vars(usual_server)
        assert server.get_state() == usual_server.get_state()
    assert len({made.id, make_client(("", 0), ("", 0), mode, NOW).id, server.id}) == 3
    server.state = connection.ConnectionState.OPEN
    with pytest.raises(RuntimeError, match="Cannot change"):
        server.address = ("other", 81)


def same_id(one: flow.Flow, other: flow.Flow) -> None:
    one.id = other.id = "the same"


def all_of(value, depth=0):
    """Everything reachable by attributes, with the types."""
    if hasattr(value, "__dict__") and type(value).__module__.startswith("mitmproxy") and depth < 5:
        return type(value), {name: all_of(each, depth + 1) for name, each in vars(value).items()}
    return type(value), value


@pytest.mark.parametrize("content", [b"body", b"", None])
@pytest.mark.parametrize("response", [True, False])
def test_nothing_tells_them_apart(content, response):
    one, other = cheap(content, response), usual(content, response)
    assert set(vars(one)) == set(vars(other))
    same_id(one, other)
    assert all_of(one) == all_of(other)
    assert one.get_state() == other.get_state()
    assert repr(one) == repr(other)
    assert one.request.headers == other.request.headers


PROPERTIES = {
    http.Request: (
        "method scheme authority host host_header port path url pretty_host pretty_url query cookies path_components"
        " urlencoded_form multipart_form first_line_format http_version is_http10 is_http11 is_http2 is_http3 headers"
        " raw_content content text timestamp_start timestamp_end trailers stream"
    ),
    http.Response: (
        "status_code reason cookies http_version is_http10 is_http11 is_http2 is_http3 headers raw_content content text timestamp_start timestamp_end"
        " trailers stream"
    ),
}


@pytest.mark.parametrize("kind", PROPERTIES)
def test_every_property_gives_the_same(kind):
    one, other = ((made.request if kind is http.Request else made.response) for made in (cheap(), usual()))
    for name in PROPERTIES[kind].split():
        assert repr(getattr(one, name)) == repr(getattr(other, name)), name
    known = {name for name in dir(kind) if isinstance(getattr(kind, name), property)}
    assert known <= set(PROPERTIES[kind].split()) | {"data"}


def test_everything_can_be_changed():
    for change in (
        lambda made: setattr(made.request, "url", "https://other:8443/x?y"),
        lambda made: setattr(made.request, "host", "other"),
        lambda made: made.request.headers.add("x", "y"),
        lambda made: made.request.headers.set_all("x", ["y", "z"]),
        lambda made: made.request.headers.__delitem__("set-cookie"),
        lambda made: made.request.query.__setitem__("q", "r"),
        lambda made: made.request.cookies.__setitem__("k", "v"),
        lambda made: setattr(made.request, "text", "ü"),
        lambda made: setattr(made.request, "method", "PUT"),
        lambda made: made.request.anticache(),
        lambda made: made.request.constrain_encoding(),
        lambda made: made.response.encode("gzip"),
        lambda made: setattr(made.response, "content", b"new"),
        lambda made: setattr(made.response, "status_code", 404),
        lambda made: made.response.refresh(NOW),
        lambda made: setattr(made.response, "trailers", http.Headers(((b"a", b"b"),))),
        lambda made: setattr(made, "marked", "x"),
        lambda made: made.metadata.__setitem__("k", "v"),
        lambda made: made.kill(),
        lambda made: made.intercept(),
        lambda made: made.backup(),
    ):
        one, other = cheap(), usual()
        same_id(one, other)
        for made in (one, other):
            change(made)
            if made.error is not None:
                made.error.timestamp = 1.0
        assert one.get_state() == other.get_state()


def test_a_change_is_of_one_flow_alone():
    changed = cheap(content=None, response=False)
    untouched = copy.deepcopy(usual(content=None, response=False).get_state())
    changed.metadata["k"] = "v"
    changed.request.method, changed.request.trailers, changed.comment = "PUT", http.Headers(FIELDS), "new"
    for name, values in (("flow", vars(changed)), ("request", vars(changed.request.data))):
        values[f"of an addon's {name}"] = 1
    after = cheap(content=None, response=False)
    assert set(vars(after)) == set(vars(usual()))
    assert after.get_state() == untouched | {"id": after.id}


def test_copies_and_backups():
    for made in (cheap(), usual()):
        twin = made.copy()
        assert twin.id != made.id
        assert not twin.live
        assert twin.request.get_state() == made.request.get_state()
        assert twin.request is not made.request
        made.backup()
        made.request.path = "/changed"
        assert made.modified()
        made.revert()
        assert made.request.path == "/a?b=c"
        assert not made.modified()
        assert made.request.copy().get_state() == made.request.get_state()
        assert copy.copy(made.request.headers) == made.request.headers


def test_state_goes_round():
    one = cheap()
    state = one.get_state()
    assert pickle.loads(pickle.dumps(state)) == state
    back = http.HTTPFlow.from_state(copy.deepcopy(state))
    assert back.get_state() == state
    other = usual()
    other.set_state(copy.deepcopy(state))
    assert other.get_state() == state


def test_files():
    data = io.BytesIO()
    one = cheap()
    mitmproxy_io.FlowWriter(data).add(one)
    data.seek(0)
    (back,) = mitmproxy_io.FlowReader(data).stream()
    assert back.get_state() == one.get_state()


def test_mitmweb_shows_them():
    one, other = cheap(), usual()
    same_id(one, other)
    assert app.flow_to_json(one) == app.flow_to_json(other)
    json.dumps(app.flow_to_json(one))
    with taddons.context():
        shown = view.View()
        one, other = cheap(response=False), cheap(response=False)
        for made in (one, other):
            shown.requestheaders(made)
            made.response = make_response(b"HTTP/1.1", 200, b"OK", FIELDS, b"x", NOW)
            shown.update([made])
        assert list(shown) == [one, other]
        assert shown.get_by_id(one.id) is one


def test_ids_are_those_of_a_uuid_and_never_the_same():
    made = [make_id() for _ in range(100_000)]
    assert len(set(made)) == len(made)
    for each in (made[0], made[-1]):
        read = uuid.UUID(each)
        assert str(read) == each
        assert (read.version, read.variant) == (4, uuid.RFC_4122)


def test_a_fork_makes_ids_of_its_own():
    """One that a worker makes another must not."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, make_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(reading, 100).decode(), make_id()
    os.close(reading)
    os.close(writing)
    assert theirs.rpartition("-")[0] != ours.rpartition("-")[0]


@given(st.lists(st.tuples(st.binary(), st.binary()), max_size=5))
def test_headers(fields):
    assert make_headers(tuple(fields)) == http.Headers(fields)
    assert vars(make_headers(tuple(fields))) == vars(http.Headers(fields))
