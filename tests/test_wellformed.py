"""What mitmproxy's parser lets through, and the mesh does not."""

from types import SimpleNamespace

import pytest
from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http
from mitmproxy.test import taddons

from addons import wellformed
from addons.engine.errors import BadRequest
from addons.own_stack import put_first
from addons.wellformed import Wellformed, check
from tests.flows import make_flow, pinned

HOST = (b"host", b"up")
LENGTH = b"content-length"
CODING = b"transfer-encoding"


def flow_of(
    *fields: tuple[bytes, bytes],
    method: str = "GET",
    target: bytes = b"/",
    version: bytes = b"HTTP/1.1",
    mode: str = "regular",
    url: str = "http://up/",
) -> http.HTTPFlow:
    """As it is when its head has arrived and nobody has looked at it."""
    flow = make_flow(url, method, mode=mode, version=version)
    flow.request.data.headers.fields = fields
    flow.request.data.path = target
    flow.request.data.authority = b""
    flow.server_conn.address = None
    flow.client_conn.alpn = b"h2" if version == b"HTTP/2.0" else None
    return flow


FINE = {
    "plain": flow_of(HOST),
    "tab, and beyond ASCII": flow_of(HOST, (b"a", b"b\tc \xff"), (b"empty", b"")),
    "all of a target": flow_of(HOST, target=b"/a;b=c/%00?d=[e]&f='{|}\\^`\"<>~"),
    "asterisk": flow_of(HOST, method="OPTIONS", target=b"*"),
    "length": flow_of(HOST, (LENGTH, b"3"), method="POST"),
    "chunked": flow_of(HOST, (CODING, b"Chunked"), method="POST"),
    "1.0 without a host": flow_of(version=b"HTTP/1.0"),
    "HTTP/2": flow_of(version=b"HTTP/2.0"),
    "HTTP/2 with a host": flow_of(HOST, version=b"HTTP/2.0"),
    "many fields": flow_of(HOST, *[(b"a", b"b")] * 199),
    "CONNECT": flow_of(method="CONNECT"),
    "CONNECT without a body": flow_of(HOST, (LENGTH, b"0"), method="CONNECT"),
}
BAD = {
    "version": flow_of(HOST, version=b"HTTP/1.2"),
    "2.0 over HTTP/1": flow_of(HOST, version=b"HTTP/2.0"),
    "method": flow_of(HOST, method="GET /a"),
    "empty method": flow_of(HOST, method=""),
    "space in the target": flow_of(HOST, target=b"/a b"),
    "beyond ASCII in the target": flow_of(HOST, target=b"/\xff"),
    "line break in the target": flow_of(HOST, target=b"/a\r\nb", version=b"HTTP/2.0"),
    "fragment": flow_of(HOST, target=b"/a#b"),
    "no target": flow_of(HOST, target=b""),
    "relative target": flow_of(HOST, target=b"a"),
    "asterisk in a GET": flow_of(HOST, target=b"*"),
    "line feed at the target's end": flow_of(HOST, target=b"/a\n"),
    "line feed at a value's end": flow_of(HOST, (b"a", b"b\n")),
    "folded": flow_of(HOST, (b"a", b"b\r\n c")),
    "NUL": flow_of(HOST, (b"a", b"b\0c")),
    "DEL": flow_of(HOST, (b"a", b"b\x7f")),
    "name": flow_of(HOST, (b"a b", b"c")),
    "empty name": flow_of(HOST, (b"", b"c")),
    "no host": flow_of(),
    "two hosts": flow_of(HOST, (b"Host", b"up")),
    "two hosts in 1.0": flow_of(HOST, HOST, version=b"HTTP/1.0"),
    "two hosts in HTTP/2": flow_of(HOST, HOST, version=b"HTTP/2.0"),
    "host": flow_of((b"host", b"me@up")),
    "port": flow_of((b"host", b"up:0")),
    "length": flow_of(HOST, (LENGTH, b"+3")),
    "length beyond 64 bits": flow_of(HOST, (LENGTH, b"1" * 19)),
    "two lengths": flow_of(HOST, (LENGTH, b"3"), (LENGTH, b"3")),
    "length and coding": flow_of(HOST, (LENGTH, b"3"), (CODING, b"chunked")),
    "another coding": flow_of(HOST, (CODING, b"gzip, chunked")),
    "two codings": flow_of(HOST, (CODING, b"chunked"), (CODING, b"chunked")),
    "coding in 1.0": flow_of(HOST, (CODING, b"chunked"), version=b"HTTP/1.0"),
    "coding in HTTP/2": flow_of(HOST, (CODING, b"chunked"), version=b"HTTP/2.0"),
    "CONNECT with a body": flow_of(HOST, (LENGTH, b"1"), method="CONNECT"),
}
BAD["2.0 over HTTP/1"].client_conn.alpn = None
LARGE = {
    "target": (414, flow_of(HOST, target=b"/" + b"a" * 16 * 1024)),
    "number of fields": (431, flow_of(HOST, *[(b"a", b"b")] * 200)),
    "field": (431, flow_of(HOST, (b"a", b"b" * 64 * 1024))),
}


@pytest.mark.parametrize("name", FINE)
def test_fine(name):
    flow = FINE[name]
    fields = flow.request.data.headers.fields
    heard(flow)
    assert flow.response is None
    assert flow.request.data.headers.fields == fields


@pytest.mark.parametrize("name", [*BAD, *LARGE])
def test_refused_and_told_in_the_log(name):
    status, flow = LARGE[name] if name in LARGE else (400, BAD[name])
    with pytest.raises(BadRequest) as refusal:
        check(flow.request, flow.client_conn.alpn == b"h2")
    assert refusal.value.status == status
    heard(flow)
    response = flow.response
    assert (response.status_code, response.headers["x-mesh-flag"]) == (status, "DPE")
    assert refusal.value.reason in response.text
    assert response.headers.get("connection") == (None if flow.client_conn.alpn == b"h2" else "close")
    exchange = pinned(flow)
    if flow.request.method == "CONNECT":
        Wellformed().http_connect_error(flow)
    else:
        Wellformed().responseheaders(flow)
    assert exchange.flags == ["DPE"]


def heard(flow: http.HTTPFlow) -> None:
    hook = Wellformed().http_connect if flow.request.method == "CONNECT" else Wellformed().requestheaders
    hook(flow)


@pytest.mark.parametrize(
    ("url", "host", "sent"),
    [
        ("http://up/", b"other", b"up"),
        ("http://up/", b"", b"up"),
        ("http://up/", b"up:81", b"up"),
        ("http://up:81/", b"up", b"up:81"),
        ("https://up/", b"other", b"up"),
        ("http://[::1]:81/", b"other", b"[::1]:81"),
        ("http://up/", b"UP:80", b"UP:80"),
        ("http://[::1]/", b"[::1]", b"[::1]"),
        # mitmproxy has decoded the name that a URL had.
        ("http://b\u00fccher/", b"xn--bcher-kva", b"xn--bcher-kva"),
        ("http://b\u00fccher/", "b\u00fccher".encode(), "b\u00fccher".encode()),
        ("http://b\u00fccher/", b"other", b"xn--bcher-kva"),
    ],
)
def test_what_goes_upstream_names_the_host_that_the_url_names(url, host, sent):
    flow = flow_of((b"a", b"b"), (b"host", host), url=url)
    heard(flow)
    assert flow.response is None
    assert dict(flow.request.headers.fields) | {b"Host": sent} == {
        b"a": b"b",
        b"Host": sent,
        **({b"host": sent} if sent == host else {}),
    }


@pytest.mark.parametrize(
    ("mode", "keep_host", "sent", "authority"),
    [
        ("transparent", False, b"named", b""),
        ("reverse:http://up", False, b"up", b""),
        ("reverse:http://up", True, b"named", b""),
        ("upstream:http://up", False, b"up", b"named"),
    ],
)
def test_a_whole_url_where_mitmproxy_would_send_it_on(monkeypatch, mode, keep_host, sent, authority):
    options = SimpleNamespace(keep_host_header=keep_host)
    monkeypatch.setattr(wellformed, "ctx", SimpleNamespace(options=options))
    flow = flow_of(HOST, mode=mode)
    flow.request.data.authority = b"named"
    heard(flow)
    assert flow.request.headers["host"].encode() == sent
    assert flow.request.data.authority == authority


def test_inside_a_tunnel_the_host_is_the_clients_own():
    flow = flow_of((b"host", b"other"))
    flow.server_conn.address = ("up", 80)
    heard(flow)
    assert flow.request.headers["host"] == "other"


def test_in_http2_the_authority_is_the_host():
    flow = flow_of((b"host", b"other"), (b"a", b"b"), version=b"HTTP/2.0")
    flow.request.data.authority = b"up"
    heard(flow)
    assert flow.request.headers.fields == ((b"a", b"b"),)


def test_what_mitmproxy_refuses_is_left_to_it_and_so_is_a_replay():
    bad, replayed = flow_of(), flow_of()
    bad.error = mitmproxy_flow.Error("bad")
    replayed.is_replay = "request"
    for flow in (bad, replayed):
        heard(flow)
        assert flow.response is None


def test_what_cannot_be_checked_is_stopped(monkeypatch):
    monkeypatch.setattr(wellformed, "check", lambda *_: 1 / 0)
    for flow in (flow_of(HOST), flow_of(method="CONNECT")):
        heard(flow)
        assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")


def test_it_stands_first_and_events_under_way_go_on_as_they_were():
    with taddons.context(Other := type("Other", (), {})()) as context:
        manager = context.master.addons
        before, first = manager.chain, Wellformed()
        was = list(before)
        put_first(manager, [first])
        assert before == was
        assert manager.chain == [first, *was]
        assert Other in manager.chain
        manager.remove(first)
        assert manager.chain == was
