"""Where a request leads, by mode and target: regular, reverse, transparent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import connection
from mitmproxy.net.http import url
from mitmproxy.proxy import mode_specs

from addons.engine.destination import Destination, Destinations, split_authority, split_target, with_host
from addons.engine.errors import BadRequest
from addons.engine.incoming import Incoming

CLIENT = connection.Client(peername=("9.9.9.9", 9), sockname=("10.0.0.7", 8443), timestamp_start=0)


def asked(target: bytes, host: bytes | None = b"name", method: bytes = b"GET") -> Incoming:
    fields = ((b"A", b"b"),) if host is None else ((b"A", b"b"), (b"hOST", host))
    return Incoming(method, target, b"HTTP/1.1", fields, 0, False, False)


def found(mode: str, *request, keep_host=False, **more):
    destinations = Destinations(mode_specs.ProxyMode.parse(mode), keep_host, "mesh.local")
    request = asked(*request, **more)
    first = destinations.find(request, CLIENT)
    # A second look, at what is remembered by then.
    assert destinations.find(request, CLIENT) == first
    hosts = [text for name, text in first.fields if name.lower() == b"host"]
    assert len(hosts) <= 1
    return first.host, first.port, first.scheme, first.path, hosts[0] if hosts else None


@pytest.mark.parametrize(
    ("target", "host", "place"),
    [
        (b"/a?b", b"name", ("name", 80, b"http", b"/a?b", b"name")),
        (b"/", b"name:81", ("name", 81, b"http", b"/", b"name:81")),
        (b"/", b"name:", ("name", 80, b"http", b"/", b"name:")),
        (b"/", b"[::1]:81", ("::1", 81, b"http", b"/", b"[::1]:81")),
        (b"/", b"NaMe", ("NaMe", 80, b"http", b"/", b"NaMe")),
        (b"//x/y", b"name", ("name", 80, b"http", b"//x/y", b"name")),
        (b"http://url/a", b"name", ("url", 80, b"http", b"/a", b"url")),
        (b"http://url:81/a", b"name:82", ("url", 81, b"http", b"/a", b"url:81")),
        (b"http://url/a", None, ("url", 80, b"http", b"/a", b"url")),
        (b"http://url", b"url", ("url", 80, b"http", b"/", b"url")),
        (b"http://url?q", b"url", ("url", 80, b"http", b"/?q", b"url")),
        (b"http://url?q=http://other/", b"x", ("url", 80, b"http", b"/?q=http://other/", b"url")),
        (b"HTTPS://url/", b"url", ("url", 443, b"https", b"/", b"url")),
        (b"https://[fe80::1]:444/", b"url", ("fe80::1", 444, b"https", b"/", b"[fe80::1]:444")),
        (b"/", b"m\xfcnchen", ("m\xfcnchen", 80, b"http", b"/", b"m\xfcnchen")),
        (b"/metrics", b"mesh.local", ("mesh.local", 80, b"http", b"/metrics", b"mesh.local")),
        (b"http://mesh.local/metrics", b"x", ("mesh.local", 80, b"http", b"/metrics", b"mesh.local")),
    ],
)
def test_regular(target, host, place):
    assert found("regular@1", target, host) == place


@pytest.mark.parametrize(
    ("mode", "keep", "place"),
    [
        ("reverse:http://app:81@1", False, ("app", 81, b"http", b"app:81")),
        ("reverse:http://app@1", False, ("app", 80, b"http", b"app")),
        ("reverse:https://app@1", False, ("app", 443, b"https", b"app")),
        ("reverse:https://app:80@1", False, ("app", 80, b"https", b"app:80")),
        ("reverse:http://[::1]:81@1", False, ("::1", 81, b"http", b"[::1]:81")),
        ("reverse:http://app:81@1", True, ("app", 81, b"http", b"name")),
    ],
)
def test_reverse(mode, keep, place):
    host, port, scheme, named = place
    assert found(mode, b"/a", keep_host=keep) == (host, port, scheme, b"/a", named)
    url_named = b"name" if keep else named
    assert found(mode, b"http://name/a", b"x", keep_host=keep) == (host, port, scheme, b"/a", url_named)
    assert found(mode, b"/a", None, keep_host=keep)[:4] == (host, port, scheme, b"/a")
    assert found(mode, b"/a", b"mesh.local", keep_host=keep)[:2] == ("mesh.local", 80)
    if not keep:
        # As mitmproxy writes it.
        assert named.decode() == url.hostport(scheme.decode(), f"[{host}]" if ":" in host else host, port)


@pytest.mark.parametrize(
    ("target", "host", "named"),
    [
        (b"/a", b"name", b"name"),
        (b"/a", None, None),
        (b"http://url/a", b"name", b"url"),
        (b"https://url/a", b"name", b"url"),
    ],
)
def test_transparent(target, host, named):
    """The client believes to talk to the address it resolved: that is where it goes, whatever it says."""
    assert found("transparent@1", target, host) == ("10.0.0.7", 8443, b"http", b"/a", named)


def test_options():
    for target, path in (
        (b"*", b"*"),
        (b"http://url", b"*"),
        (b"http://url/", b"/"),
        (b"http://url?q", b"/?q"),
    ):
        assert found("regular@1", target, b"url", method=b"OPTIONS")[3] == path


BAD_HOSTS = [
    b"a b",
    b"a/b",
    b"a?b",
    b"a#b",
    b"a@b",
    b"u:p@a",
    b"a:b",
    b"a:-1",
    b"a:0",
    b"a:65536",
    b"a:123456",
    b"::1",
]
BAD_HOSTS += [
    b"[::1",
    b"[]",
    b"[a]b",
    b"a:80:80",
    b"a,b c",
    b'a"b',
    b"a<b",
    b"a\\b",
    b"a\x7fb",
    b"a\tb",
    b":80",
]


@pytest.mark.parametrize("host", BAD_HOSTS)
@pytest.mark.parametrize("mode", ["regular@1", "reverse:http://app@1", "transparent@1"])
def test_bad_hosts_are_refused_in_every_mode(mode, host):
    for keep in (True, False):
        with pytest.raises(BadRequest) as refused:
            found(mode, b"/", host, keep_host=keep)
        assert refused.value.status == 400


@pytest.mark.parametrize(
    "target",
    [b"*", b"a", b"name:80", b"ftp://name/", b"http:/name", b"http://", b"http:///a", b"http://a b/", b"/a#b", b"/#",
     b"http://name/#a", b"http://name#a", b"http://u@name/", b"://name/"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["regular@1", "reverse:http://app@1", "transparent@1"])
def test_bad_targets_are_refused_in_every_mode(mode, target):
    with pytest.raises(BadRequest) as refused:
        found(mode, target)
    assert refused.value.status == 400


@pytest.mark.parametrize("host", [None, b""])
def test_a_proxy_must_be_told_a_host(host):
    with pytest.raises(BadRequest):
        found("regular@1", b"/", host)


def test_a_host_stands_first_and_once():
    fields = ((b"A", b"b"), (b"host", b"x"), (b"HOST", b"y"))
    assert with_host(fields, b"new") == ((b"Host", b"new"), (b"A", b"b"))


def test_memory_is_bounded():
    destinations = Destinations(mode_specs.ProxyMode.parse("regular@1"), False)
    for number in range(3000):
        host = b"host-%d" % number
        assert destinations.find(asked(b"/", host), CLIENT).host == host.decode()
    assert all(len(places) <= 1000 for places in destinations._places.values())


@given(st.binary(max_size=20), st.integers(0, 70000))
def test_authorities(host, port):
    """What is accepted names that very host and port, for whoever reads it again."""
    text = host + b":%d" % port
    try:
        place = split_authority(text, 80)
    except BadRequest:
        return
    assert 0 < place[1] < 65536
    again = f"[{place[0]}]" if ":" in place[0] else place[0]
    assert split_authority(f"{again}:{place[1]}".encode("latin-1"), 80) == place
    assert not set('@/?# \t\r\n\0"<>\\') & set(place[0])


@given(st.binary(max_size=10), st.binary(max_size=10))
def test_targets_are_cut_and_not_changed(authority, path):
    target = b"http://" + authority + path
    scheme, named, rest = split_target(target)
    assert scheme == b"http"
    assert named + rest.removeprefix(b"/") in (authority + path, (authority + path).replace(b"/", b"", 1))
    assert b"/" not in named
    assert b"?" not in named


def test_a_destination_is_a_value():
    assert Destination("a", 1, b"http", b"/", ()) == Destination("a", 1, b"http", b"/", ())
