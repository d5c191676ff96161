"""Scripts of the user's see answers' bodies, in every lane: real proxies, answers in every framing and in pieces."""

import json
import subprocess
import threading

import pytest

from tests.mesh_process import LANES, MITMDUMP, Client, World, with_options
from tests.upstream import Upstream

MB = 1024 * 1024
# Says by headers what it saw; the request says how it wants the body.
SCRIPT = """
import hashlib, os

def responseheaders(flow):
    path = flow.request.path
    if "/all" in path:
        flow.response.stream = False
    if "/twice" in path:
        flow.response.headers.pop("content-length", None)
        flow.response.headers["transfer-encoding"] = "chunked"
        flow.response.stream = lambda data: [data, data] if data else b""
    if "/copied" in path:
        flow.response = flow.response.copy()
    if "/restored" in path:
        flow.set_state(flow.get_state())

def response(flow):
    content = flow.response.raw_content
    flow.response.headers["x-seen"] = "none" if content is None else str(len(content))
    if content and len(content) < 100:
        flow.response.content = content.replace(b"hello", b"bye")
"""


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    script = folder / "marks.py"
    script.write_text(SCRIPT)
    with World(folder, scripts=[script], **with_options(request.param, body_size_limit="1k")) as world:
        yield world


class InPieces:
    """Sends a head, and each piece of the body when the one before has arrived somewhere."""

    def __init__(self, head: bytes, *pieces: bytes, chunked: bool = False) -> None:
        self.head = b"HTTP/1.1 200 OK\r\n" + head + (b"transfer-encoding: chunked\r\n" if chunked else b"")
        self.pieces = pieces
        self.chunked = chunked
        self.over = False

    def __call__(self, request, connection):
        connection.sendall(self.head + b"\r\n")
        for piece in self.pieces:
            # Long enough for a packet of its own; nothing depends on it.
            threading.Event().wait(0.02)
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece)
        threading.Event().wait(0.02)
        if self.chunked:
            connection.sendall(b"0\r\n\r\n")
        elif b"content-length" not in self.head:
            return None
        return b""


SHORT = [
    (InPieces(b"", b"hel", b"lo", chunked=True), b"bye"),
    (InPieces(b"connection: close\r\n", b"hel", b"lo"), b"bye"),
    (InPieces(b"content-length: 5\r\n", b"hel", b"lo"), b"bye"),
    (InPieces(b"content-length: 200000\r\n", b"a" * 100_000, b"b" * 100_000), b"a" * 100_000 + b"b" * 100_000),
    (InPieces(b"", b"a" * 500_000, b"b" * 500_000, chunked=True), b"a" * 500_000 + b"b" * 500_000),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "body"), SHORT)
def test_a_script_has_the_whole_answer_however_it_comes(world, reply, body):
    with Upstream(reply) as upstream:
        service = world.serve("", upstream.address)
        with Client(world.proxy.port) as client:
            for path in ("/", "/copied", "/restored", "/all"):
                got = client.get(f"http://{service}{path}")
                assert got.body == body
                assert got.header("x-seen") == str(len(body) + 2 * (body == b"bye"))


LONG = [
    InPieces(b"content-length: %d\r\n" % (3 * MB), b"x" * MB, b"y" * 2 * MB),
    InPieces(b"", b"x" * MB, b"y" * 2 * MB, chunked=True),
]


@pytest.mark.parametrize("reply", LONG)
def test_a_longer_one_passes_and_the_script_may_have_all_of_it(world, reply):
    body = b"x" * MB + b"y" * 2 * MB
    with Upstream(reply) as upstream:
        service = world.serve("", upstream.address)
        for number, (path, seen, times) in enumerate(
            [("/", None, 1), ("/copied", None, 1), ("/all", str(len(body)), 1), ("/twice", None, 2)] * 2
        ):
            path += f"/{service}/{number}"
            got = world.get(f"http://{service}{path}")
            assert (len(got.body), got.body == body) == (times * len(body), times == 1)
            assert got.header("x-seen") == seen
            assert world.line(path)["bytes_out"] == len(got.body)
    assert world.proxy.console().count("more than 1 MiB") == 1


@pytest.mark.parametrize("chunked", [True, False])
def test_behind_an_upload_that_streams_a_script_has_the_answer_too(world, chunked):
    body = b"z" * 100_000
    with Upstream(InPieces(b"content-length: %d\r\n" % len(body), body[:10], body[10:])) as upstream:
        service = world.serve("", upstream.address)
        for number, (path, seen) in enumerate(
            [("/up", "100000"), ("/up/all", "100000"), ("/up/twice", None)]
        ):
            path += f"/{service}/{number}"
            sent = iter([b"x" * MB] * 2) if chunked else b"x" * 2 * MB
            got = world.send("POST", f"http://{service}{path}", sent)
            assert (len(got.body), got.header("x-seen")) == (100_000 * (1 + (seen is None)), seen)
            line = world.line(path)
            assert (line["bytes_in"], line["bytes_out"]) == (2 * MB, len(got.body))
        assert [len(request.body) for request in upstream.requests] == [2 * MB] * 3


def test_mitmproxys_limit_is_ignored_not_by_half_and_said_so(world):
    with Upstream() as upstream:
        service = world.serve("", upstream.address)
        assert world.send("POST", f"http://{service}/", b"x" * 2000).status == 200
        assert [len(request.body) for request in upstream.requests] == [2000]
    assert world.proxy.console().count("body_size_limit: ignored") == 1


@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/grpc"])
def test_what_has_no_end_is_passed_on_at_once(world, kind):
    go = threading.Event()

    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n\r\nfirst" % kind)
        assert go.wait(20)
        connection.sendall(b"second")

    with Upstream(reply) as upstream:
        service = world.serve("", upstream.address)
        with Client(world.proxy.port) as client:
            client.connection.request("GET", f"http://{service}/")
            response = client.connection.getresponse()
            assert response.read1(100) == b"first"
            go.set()
            assert response.read() == b"second"


@pytest.mark.parametrize("lane", [LANES[0], LANES[1]])
def test_mitmproxys_own_addons_have_it_too(lane, tmp_path):
    flows, har = tmp_path / "flows", tmp_path / "flows.har"
    lane = with_options(lane, modify_body="/~s/hello/bye", save_stream_file=str(flows), hardump=str(har))
    with Upstream(InPieces(b"", b"hel", b"lo", chunked=True)) as upstream, World(tmp_path, **lane) as world:
        service = world.serve("", upstream.address)
        assert world.get(f"http://{service}/").body == b"bye"
    assert json.loads(har.read_text())["log"]["entries"][0]["response"]["content"]["text"] == "bye"
    shown = subprocess.run(
        [*MITMDUMP, "-n", "-r", str(flows), "--set", "flow_detail=3"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "bye" in shown.stdout
