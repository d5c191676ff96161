"""Mutual TLS at an inbound port and towards services: real proxies, and OpenSSL, curl and Python's ssl as foreign peers."""

import contextlib
import itertools
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import pytest

from tests.conftest import Valkey, free_port
from tests.identities import Identities, Shown
from tests.mesh_process import (
    LANES,
    PATIENCE,
    Mesh,
    Proxy,
    curl,
    eventually,
    get,
    running,
    with_options,
)
from tests.upstream import Upstream, saying

pytestmark = pytest.mark.timeout(180)

STRICT = "service: reviews\nmtls: strict\n"


class InFront:
    """An application and the proxy in front of it, at a port of its own."""

    def __init__(self, folder: Path, lane: dict[str, Any]) -> None:
        self.identities = Identities(folder / "identities")
        self.web = self.identities.of("web")
        self.valkey = Valkey(folder / "valkey")
        self.mesh = Mesh(self.valkey.url)
        self.application = Upstream(saying(200, "hello"))
        self.application.port = free_port()
        self.port = free_port()
        self.own = self.identities.of("reviews")
        self.proxy = Proxy(
            folder / "proxy",
            self.valkey.url,
            port=self.port,
            modes=[f"reverse:http://127.0.0.1:{self.application.port}@{self.port}"],
            **with_options(
                lane,
                mesh_service="reviews",
                mesh_inbound=str(self.port),
                mesh_identity=str(self.own.folder),
            ),
        )
        self.paths = (f"/{number}" for number in itertools.count(1))

    @contextlib.contextmanager
    def running(self) -> Iterator["InFront"]:
        self.valkey.start()
        try:
            with self.application, running(self.proxy):
                yield self
        finally:
            self.valkey.kill()

    def apply(self, text: str) -> None:
        self.proxy.in_force(self.mesh, self.mesh.apply(text))

    def refusals(self) -> list[str]:
        return re.findall(r"inbound connection of [^ ]+ refused: (.*)", self.proxy.console())

    @contextlib.contextmanager
    def refusing(self, why: str) -> Iterator[str]:
        """What is sent to this path within the block does not arrive, and one line of the log says why."""
        before, path = self.refusals(), next(self.paths)
        yield path
        seen = eventually(lambda: self.refusals()[len(before) :])
        assert len(seen) == 1, seen
        assert re.search(why, seen[0]), seen
        assert [each for each in self.application.requests if each.target == path] == []

    def arrived(self, path: str) -> Any:
        (request,) = [each for each in self.application.requests if each.target == path]
        return request

    def curl(self, path: str, shown: Shown | None, *more: str) -> subprocess.CompletedProcess[str]:
        own = ["--cert", shown.certificate, "--key", shown.key] if shown is not None else []
        # It knows no SPIFFE IDs; that the server is the right one is checked elsewhere.
        return curl("--insecure", *own, *more, f"https://127.0.0.1:{self.port}{path}")

    def openssl(self, path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-quiet", *arguments],
            input=f"GET {path} HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def python(self, path: str, shown: Shown, context: ssl.SSLContext | None = None) -> bytes:
        """What comes back; what goes wrong is raised."""
        context = context or shown.client()
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as plain:
            with context.wrap_socket(plain) as secure:
                secure.sendall(f"GET {path} HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n".encode())
                return b"".join(iter(lambda: secure.recv(65536), b""))


@pytest.fixture(scope="module", params=LANES)
def front(request, tmp_path_factory) -> Iterator[InFront]:
    with InFront(tmp_path_factory.mktemp("mtls"), request.param).running() as made:
        made.apply(STRICT)
        yield made


WRONG = [
    pytest.param(lambda made: made.of_another_authority("web"), "signed by no root", id="wrong-ca"),
    pytest.param(lambda made: made.expired("web"), "expired", id="expired"),
    pytest.param(lambda made: made.not_yet_valid("web"), "not valid yet", id="not-yet-valid"),
    pytest.param(lambda made: made.without_uri(), "proves no service", id="no-uri"),
]


@pytest.mark.parametrize(("make", "why"), WRONG)
def test_openssl_with_a_certificate_that_does_not_count(front, make, why):
    shown = make(front.identities)
    with front.refusing(why) as path:
        done = front.openssl(path, "-cert", shown.certificate, "-key", shown.key)
    assert "hello" not in done.stdout


@pytest.mark.parametrize(("make", "why"), WRONG)
def test_curl_with_a_certificate_that_does_not_count(front, make, why):
    shown = make(front.identities)
    with front.refusing(why) as path:
        done = front.curl(path, shown)
    assert (done.returncode != 0, done.stdout) == (True, "")


@pytest.mark.parametrize(("make", "why"), WRONG)
def test_pythons_ssl_with_a_certificate_that_does_not_count(front, make, why):
    shown = make(front.identities)
    with front.refusing(why) as path:
        # With TLS 1.3 a client hears of it when it reads, or finds the connection reset.
        with contextlib.suppress(OSError):
            assert b"hello" not in front.python(path, shown)


def test_without_a_certificate(front):
    with front.refusing("it shows no certificate") as path:
        assert "hello" not in front.openssl(path).stdout
    with front.refusing("it shows no certificate") as path:
        assert front.curl(path, None).returncode != 0


def test_the_one_who_is_refused_is_told_so_by_an_alert(front):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with front.refusing("it shows no certificate") as path:
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required|handshake.failure"):
            front.python(path, front.web, context)


def test_tls_1_1(front):
    with front.refusing("it speaks no TLS 1.2 or newer") as path:
        done = front.openssl(
            path, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0",
            "-cert", front.web.certificate, "-key", front.web.key,
        )  # fmt: skip
    assert "hello" not in done.stdout


def test_plain_text_is_closed_without_a_word(front):
    with front.refusing("plain text where mutual TLS alone is taken") as path:
        with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as plain:
            plain.sendall(f"GET {path} HTTP/1.1\r\nHost: reviews\r\n\r\n".encode())
            with contextlib.suppress(ConnectionResetError):
                assert plain.recv(1000) == b""


def test_what_is_no_http_is_not_let_in_either(front):
    with front.refusing("plain text where mutual TLS alone is taken"):
        with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as plain:
            plain.sendall(b"\x00\x01\x02")
            with contextlib.suppress(ConnectionResetError):
                assert plain.recv(1000) == b""


def answer_of(connection: socket.socket) -> bytes:
    """Up to the end of the application's body, which may come apart from its head."""
    received = b""
    while not received.endswith(b"hello") and (piece := connection.recv(65536)):
        received += piece
    return received


def expected_caller(front: InFront, shown: Shown) -> str:
    digest = subprocess.run(
        ["openssl", "x509", "-in", shown.certificate, "-noout", "-fingerprint", "-sha256"],
        capture_output=True, text=True, check=True,
    ).stdout.strip().partition("=")[2].replace(":", "").lower()  # fmt: skip
    return f"By=spiffe://mesh/service/reviews;Hash={digest};URI=spiffe://mesh/service/web"


@pytest.mark.parametrize("tool", ["curl", "openssl", "python"])
def test_the_right_one_passes_and_the_application_sees_who_called(front, tool):
    path = next(front.paths)
    if tool == "curl":
        forged = ["-H", "X-Forwarded-Client-Cert: URI=spiffe://mesh/service/admin"]
        forged += ["-H", "x_forwarded_client_cert: URI=spiffe://mesh/service/admin"]
        assert front.curl(path, front.web, *forged).stdout == "hello"
    elif tool == "openssl":
        shown = ["-cert", front.web.certificate, "-key", front.web.key, "-ign_eof"]
        assert "hello" in front.openssl(path, *shown).stdout
    else:
        assert front.python(path, front.web).endswith(b"hello")
    seen = front.arrived(path).fields
    callers = [text for name, text in seen if name.lower().replace("_", "-") == "x-forwarded-client-cert"]
    assert callers == [expected_caller(front, front.web)]
    line = front.proxy.line(path)
    assert (line["source"], line["peer"]) == ("web", "spiffe://mesh/service/web")
    assert line["tls"] in ("TLSv1.3", "TLSv1.2")


def test_tls_1_2_is_taken_too(front):
    path = next(front.paths)
    assert front.curl(path, front.web, "--tls-max", "1.2").stdout == "hello"
    assert front.proxy.line(path)["tls"] == "TLSv1.2"


def test_keep_alive_over_tls_and_a_resumed_session(front):
    context = front.web.client()
    with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as plain:
        with context.wrap_socket(plain) as secure:
            for _ in range(3):
                path = next(front.paths)
                secure.sendall(f"GET {path} HTTP/1.1\r\nHost: reviews\r\n\r\n".encode())
                assert b"hello" in answer_of(secure)
                assert front.arrived(path)
            session = secure.session
    path = next(front.paths)
    with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as plain:
        with context.wrap_socket(plain, session=session) as secure:
            secure.sendall(f"GET {path} HTTP/1.1\r\nHost: reviews\r\n\r\n".encode())
            assert b"hello" in answer_of(secure)
            # mitmproxy's own stack resumes none.
            assert secure.session_reused or "mesh_fastlane=false" in front.proxy.command
    assert front.arrived(path).header("x-forwarded-client-cert") == expected_caller(front, front.web)


def test_a_large_body_both_ways(front):
    path = next(front.paths)
    sent = "x" * 3_000_000
    front.application.reply = lambda request, connection: (
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(request.body) + request.body
    )
    try:
        done = subprocess.run(
            ["curl", "-sk", "--cert", front.web.certificate, "--key", front.web.key, "--data-binary", "@-",
             f"https://127.0.0.1:{front.port}{path}"],
            input=sent, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    finally:
        front.application.reply = saying(200, "hello")
    assert done.stdout == sent


def test_who_speaks_http2_alone_is_served_by_mitmproxys_stack(front):
    path = next(front.paths)
    context = front.web.client()
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as plain:
        with context.wrap_socket(plain) as secure:
            assert secure.selected_alpn_protocol() == "h2"
            client = h2.connection.H2Connection()
            client.initiate_connection()
            names = {":method": "GET", ":path": path, ":scheme": "https", ":authority": "reviews"}
            client.send_headers(1, [*names.items(), ("x-forwarded-client-cert", "forged")], end_stream=True)
            body, over = b"", False
            while not over:
                secure.sendall(client.data_to_send())
                for event in client.receive_data(secure.recv(65536)):
                    if isinstance(event, h2.events.DataReceived):
                        body += event.data
                    over = over or isinstance(event, h2.events.StreamEnded | h2.events.ConnectionTerminated)
    assert body == b"hello"
    assert front.arrived(path).header("x-forwarded-client-cert") == expected_caller(front, front.web)
    assert front.proxy.line(path)["protocol"] == "HTTP/2.0"


def test_an_upgraded_connection_is_a_pipe(front):
    """As a WebSocket is in the fast lane."""
    path = next(front.paths)

    def echo(request, connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
        )
        while data := connection.recv(65536):
            connection.sendall(data.upper())

    front.application.reply = echo
    try:
        with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as plain:
            with front.web.client().wrap_socket(plain) as secure:
                head = f"GET {path} HTTP/1.1\r\nHost: reviews\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
                secure.sendall(head.encode())
                received = b""
                while not received.endswith(b"\r\n\r\n"):
                    received += secure.recv(65536)
                assert received.startswith(b"HTTP/1.1 101 ")
                for text in (b"a", b"b" * 40_000):
                    secure.sendall(text)
                    back = b""
                    while len(back) < len(text):
                        back += secure.recv(65536)
                    assert back == text.upper()
    finally:
        front.application.reply = saying(200, "hello")


def test_a_policy_acts_on_the_next_connection(front):
    """Last of those with this proxy: what it takes changes."""
    try:
        front.apply("service: reviews\nmtls: permissive\n")
        path = next(front.paths)
        assert get(front.port, path).body == b"hello"
        assert front.arrived(path).header("x-forwarded-client-cert") is None
        line = front.proxy.line(path)
        assert (line["peer"], line["tls"]) == (None, None)
        path = next(front.paths)
        assert front.curl(path, front.web).stdout == "hello"
        assert front.proxy.line(path)["source"] == "web"
        with front.refusing("it shows no certificate") as path:
            front.curl(path, None)

        with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as plain:
            first, then = next(front.paths), next(front.paths)
            plain.sendall(f"GET {first} HTTP/1.1\r\nHost: reviews\r\n\r\n".encode())
            assert b"hello" in answer_of(plain)
            front.apply(STRICT)
            plain.sendall(f"GET {then} HTTP/1.1\r\nHost: reviews\r\n\r\n".encode())
            answer = plain.recv(65536)
            assert answer.startswith(b"HTTP/1.1 403 "), answer
            assert [each for each in front.application.requests if each.target == then] == []

        front.apply("service: reviews\n")
        path = next(front.paths)
        assert get(front.port, path).body == b"hello"
        with front.refusing("TLS where plain connections alone are taken") as path:
            front.curl(path, front.web)
    finally:
        front.apply(STRICT)


@pytest.mark.parametrize("lane", [LANES[1], LANES[2]])
def test_another_certificate_and_other_roots_are_for_the_next_connection(lane, tmp_path):
    with InFront(tmp_path, lane).running() as front:
        front.apply(STRICT)
        with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE) as plain:
            with front.web.client().wrap_socket(plain) as secure:

                def ask() -> None:
                    path = next(front.paths)
                    secure.sendall(f"GET {path} HTTP/1.1\r\nHost: reviews\r\n\r\n".encode())
                    assert b"hello" in answer_of(secure)
                    assert front.arrived(path)

                ask()
                before = secure.getpeercert(binary_form=True)
                others = Identities(tmp_path / "others")
                others.authority.issue("reviews").write(front.own.folder)

                def is_renewed() -> bool:
                    with contextlib.suppress(OSError):
                        return front.python(next(front.paths), others.of("web")).endswith(b"hello")
                    return False

                eventually(is_renewed)
                ask()
                assert secure.getpeercert(binary_form=True) == before
        with front.refusing("signed by no root") as path:
            front.curl(path, front.web)
