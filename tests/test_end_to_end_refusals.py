"""Requests that could be read in two ways, through real proxies: refused in each lane, or written anew without a doubt."""

import re
import socket
import time
from collections import Counter

import pytest

from tests.bad_requests import BAD, BAD_BODY, CHUNKED, TOO_LARGE, in_other_ways
from tests.mesh_process import LANES, World, eventually
from tests.raw_upstream import Message, raw_upstream, read_strictly

CASES = {
    **BAD,
    **in_other_ways(),
    **{
        f"body: {name}": (431 if name in TOO_LARGE else 400, CHUNKED + body)
        for name, body in BAD_BODY.items()
    },
}
AFTER = b"GET /after-%d HTTP/1.1\r\nHost: up\r\nConnection: close\r\n\r\n"

# Where mitmproxy itself reads, it takes some of them; what it has read goes upstream in the mesh's words, or its own.
WRITTEN_ANEW = {
    "chunked behind a vertical tab": b"",
    "line feed alone": b"",
    "line feed alone behind a field": b"",
    "line feed alone behind a field, upload": b"abc",
    "line feed alone behind a field, upgrade": b"",
    "body: space behind the size": b"abc",
    "body: carriage return in an extension": b"abc",
    "body: NUL in an extension": b"abc",
}
# There it goes on to wait, without a limit: for the end of the head, or of a body that is refused already or broken.
WAITS = {
    "length beyond 64 bits",
    "long target without an end",
    "fields without an end",
    "body: too large",
    "body: line feed alone",
    "body: length in a trailer",
    "body: folded trailer",
    "body: trailers without an end",
    "body: large trailers",
    "body: many trailers",
    "body: extension without an end",
}


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("refusals"), **request.param) as world:
        yield world


def say(port: int, data: bytes, listen: bool = True) -> bytes:
    """All that the proxy answers until it closes the connection."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        try:
            client.sendall(data)
            while listen and (piece := client.recv(65536)):
                said += piece
        except ConnectionError:
            pass
    return said


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", said)]


def test_nothing_reaches_the_upstream_that_can_be_read_in_two_ways(world):
    expected: Counter[Message] = Counter()
    failed = {}
    with raw_upstream() as upstream:
        world.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        for number, (name, (status, data)) in enumerate(CASES.items()):
            # Numbered, so that what arrives can be told apart; and behind each a request that would be smuggled in.
            data = data.replace(b" / ", b" /%d " % number, 1)
            if "without an end" not in name:
                data += AFTER % number
            body = WRITTEN_ANEW.get(name) if world.full else None
            if body is not None:
                expected[Message(b"/%d" % number, body)] += 1
                expected[Message(b"/after-%d" % number, b"")] += 1
                wanted = [200, 200]
            elif world.full and name.startswith("body: "):
                wanted = []
            else:
                wanted = [status]
            listen = not (world.full and name in WAITS)
            got = statuses(say(world.proxy.port, data, listen))
            if listen and got != wanted:
                failed[name] = got
        assert statuses(say(world.proxy.port, AFTER % 10_000)) == [200]
        expected[Message(b"/after-10000", b"")] += 1
        assert failed == {}
        # What was begun and not ended is cut.
        eventually(
            lambda: all(not each.open or not read_strictly(bytes(each.data))[1] for each in upstream.received)
        )
        arrived = Counter(
            message for each in upstream.received for message in read_strictly(bytes(each.data))[0]
        )
        assert arrived == expected


# What mitmproxy lets through, so that the mesh refuses it in every lane.
TOLD = {
    name: CASES[name]
    for name in ("fragment in a URL", "long target", "many fields", "control character in a value", "2.0")
}


def so_far(world: World) -> int:
    """Lines of the access log, when all that was done before is in it."""
    service = world.serve("respond: {status: 204}")
    world.get(f"http://{service}/{service}")
    world.line(f"/{service}")
    return len(world.proxy.lines())


def counted(text: str) -> Counter[tuple[str, str]]:
    """Requests by status and flags, of the metrics' text."""
    found: Counter[tuple[str, str]] = Counter()
    for labels, count in re.findall(r"^mitmesh_requests_total{(.*)} (\d+)", text, re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[named["response_code"], named["response_flags"]] += int(count)
    return found


def test_what_is_refused_is_told_in_the_answer_the_log_and_the_metrics(world):
    logged = so_far(world)
    before = counted(world.get("http://mesh.local/metrics").text)
    for status, data in TOLD.values():
        said = say(world.proxy.port, data)
        assert statuses(said) == [status]
        assert b"\r\nx-mesh-flag: DPE\r\n" in said
    wanted = [(status, "DPE") for status, _ in TOLD.values()]
    lines = eventually(lambda: len(found := world.proxy.lines()[logged:]) >= len(wanted) and found)
    assert [(line["status"], line["flags"]) for line in lines] == wanted
    now = counted(world.get("http://mesh.local/metrics").text)
    assert now - before == Counter((str(status), "DPE") for status, _ in TOLD.values())
    assert {(line["node"], line["service"]) for line in lines} == {(world.proxy.node, "")}


def test_what_is_no_request_at_all_is_told_by_the_engine(world):
    if world.full:
        pytest.skip("mitmproxy's own stack tells nobody what it refuses itself")
    logged = so_far(world)
    said = say(world.proxy.port, b"GET / HTTP/1.1\r\nHost\r\n\r\n")
    assert statuses(said) == [400]
    assert b"\r\nx-mesh-flag: DPE\r\n" in said
    (line,) = eventually(lambda: world.proxy.lines()[logged:])
    assert (line["status"], line["flags"], line["protocol"]) == (400, "DPE", "HTTP/1.1")
    assert {line[name] for name in ("method", "host", "path", "user_agent", "upstream_ms")} == {None}


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_unknown_method_is_served_wherever_it_stands(world, before, bytewise):
    """First on its connection or behind others in one packet, and however its first line is cut."""
    good = b"GET /good HTTP/1.1\r\nHost: up\r\n\r\n" * before
    foreign = b"BREW /pot HTTP/1.1\r\nHost: up\r\nConnection: close\r\n\r\n"
    with raw_upstream() as upstream:
        world.apply(f"service: up\nendpoints: ['{upstream.address}']\n")
        with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = len(good) + 1 if bytewise else len(good + foreign)
            client.sendall((good + foreign)[:first])
            for byte in (good + foreign)[first:]:
                time.sleep(0.001)  # so that each is a packet of its own
                client.sendall(bytes((byte,)))
            said = b""
            while piece := client.recv(65536):
                said += piece
        assert statuses(said) == [200] * (before + 1)
        arrived = [
            message.target for each in upstream.received for message in read_strictly(bytes(each.data))[0]
        ]
        assert arrived == [b"/good"] * before + [b"/pot"]


WITH_URL = [
    b"GET http://up%b HTTP/1.1\r\nHost: other\r\n\r\n",
    b"GET http://up%b HTTP/1.0\r\nHost: other\r\n\r\n",
    b"GET http://up%b HTTP/1.0\r\n\r\n",
    b"POST http://up%b HTTP/1.1\r\nHost: other\r\nContent-Length: 3\r\n\r\nabc",
    b"POST http://up%b HTTP/1.1\r\nHost: other\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET http://up%b HTTP/1.1\r\nHost: other\r\nConnection: upgrade\r\nUpgrade: tea\r\n\r\n",
]


def test_the_host_of_a_url_is_the_one_that_is_routed_and_the_one_that_the_upstream_gets(world):
    """Otherwise the policy of one service would let through what another one serves."""
    with raw_upstream() as upstream:
        world.apply(
            f"service: up\nendpoints: ['{upstream.address}']\n---\nservice: other\nrespond: {{status: 418}}\n"
        )
        for number, data in enumerate(WITH_URL):
            data = data % b"/%d" % number
            if b"HTTP/1.1" in data:
                data += AFTER % number
            assert set(statuses(say(world.proxy.port, data))) == {200}, data
        arrived = [message for each in upstream.received for message in read_strictly(bytes(each.data))[0]]
        assert {message.target for message in arrived} >= {b"/%d" % number for number in range(len(WITH_URL))}
        assert {message.host for message in arrived} == {b"up"}
