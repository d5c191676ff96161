"""TLS at both sides: clients that CONNECT and speak HTTP/2 inside, upstreams whose certificate is checked."""

import json
import socket
import subprocess
import threading

import pytest

from tests.certificates import Authority
from tests.conftest import free_port
from tests.mesh_process import World, curl, eventually
from tests.upstream import Upstream, answer, saying


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def world(tmp_path_factory, authority):
    environment = {"SSL_CERT_FILE": str(authority.file)}
    with World(tmp_path_factory.mktemp("tls"), environment=environment) as world:
        yield world


def browse(world, *arguments: str) -> dict[str, str]:
    """curl through the proxy; what it says of each answer: status, version, body, flag."""
    done = curl(
        "--proxy", f"http://127.0.0.1:{world.proxy.port}", "--insecure", "--write-out",
        '\\n{"status": "%{http_code}", "version": "%{http_version}", "flag": "%header{x-mesh-flag}", "attempts": "%header{x-mesh-attempts}"}',
        *arguments,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    body, _, said = done.stdout.rpartition("\n")
    return {"body": body, **json.loads(said)}


@pytest.mark.parametrize(("option", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_https_is_routed_retried_and_logged_like_anything_else(world, authority, option, version):
    service = world.name()
    with Upstream(saying(200, "secret"), authority.server(service)) as upstream:
        world.change(
            service,
            "retry: {attempts: 3, on: [5xx]}\nfaults: [{abort: 503, first: 2}]\nrequest_headers: {set: {x-edited: yes}}",
            upstream.address,
        )
        got = browse(world, option, f"https://{service}/secret/{version}?q=1", "--cookie", "a=1; b=2")
        assert got == {"body": "secret", "status": "200", "version": version, "flag": "", "attempts": "3"}
        request = upstream.requests[0]
        assert (request.header("host"), request.header("x-edited"), request.header("cookie")) == (
            service,
            "yes",
            "a=1; b=2",
        )
        line = world.line(f"/secret/{version}?q=1")
        assert (line["service"], line["protocol"], len(line["attempts"])) == (
            service,
            "HTTP/2.0" if version == "2" else "HTTP/1.1",
            3,
        )


def test_a_certificate_that_is_not_trusted_is_503_uf_with_the_reason(world, tmp_path):
    service = world.name()
    with Upstream(saying(), Authority(tmp_path / "other").server(service)) as upstream:
        world.change(service, "", upstream.address)
        got = browse(world, f"https://{service}/untrusted")
        assert (got["status"], got["flag"]) == ("503", "UF")
        assert f"no connection to {upstream.address}: certificate verify failed: " in got["body"]
        assert world.line("/untrusted")["flags"] == "UF"


def test_a_certificate_of_another_name_is_refused(world, authority):
    service = world.name()
    with Upstream(saying(), authority.server("other.test")) as upstream:
        world.change(service, "", upstream.address)
        got = browse(world, f"https://{service}/")
        assert (got["status"], got["flag"]) == ("503", "UF")
        assert "certificate verify failed: Hostname mismatch" in got["body"]


def test_plain_http_on_the_port_of_https_is_503_uf(world):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1000)

        threading.Thread(target=serve, daemon=True).start()
        service = world.serve("", f"127.0.0.1:{listener.getsockname()[1]}")
        got = browse(world, f"https://{service}/")
        assert (got["status"], got["flag"]) == ("503", "UF")
        assert "TLS: wrong version number" in got["body"]


def test_a_service_that_only_the_mesh_knows_needs_no_name_service(world, authority):
    """mitmproxy would dial the name that the client gave before anybody has routed the request."""
    service = "no.such.name.example"
    with Upstream(saying(200, "found"), authority.server(service)) as upstream:
        world.change(service, "", upstream.address)
        assert browse(world, f"https://{service}/")["body"] == "found"


def test_an_uploads_and_downloads_of_http_2(world, authority, tmp_path):
    service = world.name()
    size = 5 * 1024 * 1024
    file = tmp_path / "body"
    file.write_bytes(b"x" * size)
    with Upstream(
        lambda request, connection: answer(200, request.body), authority.server(service)
    ) as upstream:
        world.change(service, "retry: 3", upstream.address, f"127.0.0.1:{free_port()}")
        for number in range(4):
            got = browse(world, "--http2", f"https://{service}/h2/{number}", "--data-binary", f"@{file}")
            assert (got["status"], got["version"], len(got["body"])) == ("200", "2", size)
            line = world.line(f"/h2/{number}")
            assert (line["bytes_in"], line["bytes_out"]) == (size, size)


def test_many_streams_at_once_on_one_connection(world, authority):
    """mitmproxy opens at most five connections to an address for a client, each counted for all of its life."""
    count = 12
    service = world.name()
    seen = threading.Event()

    def reply(request, connection):
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head + b"9\r\ndata: 1\n\n\r\n")
        assert seen.wait(20)
        return b"0\r\n\r\n"

    with Upstream(reply, authority.server(service)) as upstream:
        world.change(service, "", upstream.address)
        urls = [f"https://{service}/many/{number}" for number in range(count)]
        proxy = f"http://127.0.0.1:{world.proxy.port}"
        options = ["--no-buffer", "--silent", "--insecure", "--http2", "--parallel", "--max-time", "20"]
        with subprocess.Popen(["curl", "--disable", *options, "--proxy", proxy, *urls], stdout=-1) as client:
            assert client.stdout.read(count * 9) == b"data: 1\n\n" * count
            seen.set()
        assert client.returncode == 0


@pytest.mark.parametrize(("option", "version"), [("--http2", "2"), ("--http1.1", "1.1")])
def test_rewrites_redirects_limits_and_copies_inside_tls(world, authority, option, version):
    service, inner = world.name(), f"{world.name()}.inner"
    with (
        Upstream(saying(200, "inside"), authority.server(inner)) as upstream,
        Upstream(saying(200, "copy"), authority.server(inner)) as shadow,
    ):
        world.change(
            service,
            f"""\
            endpoints: {{v1: ["{upstream.address}"], v2: ["{shadow.address}"]}}
            to: v1
            routes:
              - match: {{path: {{prefix: /api}}}}
                rewrite: {{prefix: /, host: {inner}}}
                mirror: v2
                rate_limit: {{requests: 1, per: 1h}}
                cors: {{allow_origins: "https://a.example"}}
              - match: {{path: {{prefix: /old}}}}
                redirect: {{prefix: /api}}
            """,
        )
        got = browse(
            world, option, f"https://{service}/api/x?y", "--data", "body", "-H", "origin: https://a.example"
        )
        assert (got["status"], got["body"], got["version"]) == ("200", "inside", version)
        for place, host in ((upstream, inner), (shadow, f"{inner}-shadow")):
            eventually(lambda place=place: place.requests)
            (sent,) = place.requests
            assert (sent.method, sent.target, sent.body) == ("POST", "/x?y", b"body")
            assert sent.header("host") == host
            assert sent.header("x-envoy-original-path") == "/api/x?y"
            assert sent.header("x-envoy-original-host") == service
        headers = browse(
            world, option, "--include", f"https://{service}/api/again", "-H", "origin: https://a.example"
        )
        assert (headers["status"], headers["flag"]) == ("429", "RL")
        assert "access-control-allow-origin: https://a.example" in headers["body"].lower()
        moved = browse(world, option, "--include", f"https://{service}/old/x?y")
        assert moved["status"] == "302"
        assert f"location: https://{service}/api/x?y" in moved["body"].lower()
        assert (len(upstream.requests), len(shadow.requests)) == (1, 1)
