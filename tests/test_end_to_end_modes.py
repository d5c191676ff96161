"""The ways to start a proxy: regular and reverse, mitmdump and mitmesh proxy, checkout and wheel."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import Valkey, free_port
from tests.mesh_process import LANES, ROOT, Mesh, Proxy, get, running, send
from tests.test_wheel import installed, wheel  # noqa: F401 - fixtures
from tests.upstream import Upstream, in_turn, saying

MITMESH = [sys.executable, "-m", "control"]


@pytest.fixture
def mesh(redis_url: str) -> Mesh:
    return Mesh(redis_url)


@pytest.mark.parametrize("lane", LANES)
def test_in_reverse_mode_the_caller_need_not_know_of_the_proxy(mesh, tmp_path, lane):
    port = free_port()
    with Upstream() as upstream:
        mesh.apply(f'service: server\nhosts: ["{upstream.address}"]\nretry: {{attempts: 3, on: [5xx]}}\n')
        proxy = Proxy(
            tmp_path,
            mesh.url,
            port=port,
            modes=[f"reverse:http://{upstream.address}@{port}"],
            **lane,
        )
        with running(proxy):
            upstream.reply = in_turn(saying(503), saying(503), saying())
            got = get(port, "/direct?a=b")
            assert (got.status, got.body, got.header("x-mesh-attempts")) == (200, b"ok", "3")
            assert {request.target for request in upstream.requests} == {"/direct?a=b"}
            assert upstream.requests[0].header("host") == upstream.address
            assert proxy.line("/direct?a=b")["service"] == "server"
            # A POST with a body, and a second client.
            assert send(port, "POST", "/post", b"data").status == 200
            assert upstream.requests[-1].body == b"data"
            # The target down: an answer, and no connection that is closed without one.
            upstream.__exit__()
            got = get(port, "/down")
            assert (got.status, got.flag, got.header("x-mesh-attempts")) == (503, "UF", "3")


@pytest.mark.parametrize("lane", LANES)
def test_reverse_mode_reaches_the_endpoints_of_the_policy(mesh, tmp_path, lane):
    port = free_port()
    with Upstream(saying(200, "elsewhere")) as upstream:
        mesh.apply(f'service: server\nendpoints: ["{upstream.address}"]\n')
        modes = [f"reverse:http://server:3001@{port}"]
        with running(Proxy(tmp_path, mesh.url, port=port, modes=modes, **lane)):
            assert get(port, "/").body == b"elsewhere"


@pytest.mark.parametrize("launcher", ["mitmdump", "mitmesh"])
def test_outbound_and_inbound_of_one_service(mesh, tmp_path, launcher):
    """Two services with a proxy each: the caller's decides, the callee's passes on."""
    outbound, inbound = free_port(), free_port()
    with Upstream(saying(200, "from the application")) as application:
        mesh.apply(
            f'service: backend\nendpoints: ["127.0.0.1:{inbound}"]\nroutes: [{{match: {{source: shop}}, response_headers: {{set: {{x-for: shop}}}}}}]\n'
            # What is claimed here must not act again at the callee's proxy.
            f'---\nservice: trap\nhosts: ["{application.address}"]\nfaults: [{{abort: 503}}]\n'
        )
        port = str(inbound)
        if launcher == "mitmesh":
            own = [*MITMESH, "proxy", "--redis", mesh.url, "--listen-host", "127.0.0.1"]
            caller = [
                *own,
                "--service",
                "shop",
                "--outbound",
                str(outbound),
                "--access-log",
                str(tmp_path / "caller/access.log"),
            ]
            callee = [*own, "--service", "backend", "--inbound", f"{port}:{application.address}", "--access-log", str(tmp_path / "callee/access.log")]  # fmt: skip
            environment = {"PYTHONPATH": str(ROOT)}
            proxies = [
                Proxy(tmp_path / "caller", None, port=outbound, command=caller, environment=environment),
                Proxy(tmp_path / "callee", None, port=inbound, command=callee, environment=environment),
            ]
        else:
            proxies = [
                Proxy(tmp_path / "caller", mesh.url, port=outbound, options={"mesh_service": "shop"}),
                Proxy(
                    tmp_path / "callee",
                    mesh.url,
                    port=inbound,
                    modes=[f"reverse:http://{application.address}@{inbound}"],
                    options={"mesh_service": "backend", "mesh_inbound": port},
                ),
            ]
        with running(*proxies):
            got = get(outbound, "http://backend/hello")
            assert (got.status, got.body, got.header("x-for")) == (200, b"from the application", "shop")
            sent, received = (proxy.line("/hello") for proxy in proxies)
            assert (sent["service"], sent["source"], sent["route"]) == ("backend", "shop", "routes[0]")
            assert (received["service"], received["source"], received["route"]) == ("backend", "", "")
            assert sent["request_id"] == received["request_id"]
            nodes = mesh.nodes().values()
            assert sorted(node.service for node in nodes) == ["backend", "shop"]
            assert {node.addresses for node in nodes} == {
                (f"127.0.0.1:{outbound}",),
                (f"127.0.0.1:{inbound}",),
            }
        assert mesh.nodes() == {}


def policy_works(mesh: Mesh, proxy: Proxy, header: str = "x-mesh-attempts") -> None:
    """Through this proxy a policy takes effect, and changes."""
    with Upstream() as upstream, running(proxy):
        for tries in (2, 5):
            mesh.apply(
                f'service: web\nendpoints: ["{upstream.address}"]\nretry: {{attempts: {tries}, on: [200], backoff: {{base: 1ms}}}}'
            )
            proxy.in_force(mesh, mesh.stored().revision)
            assert get(proxy.port, "http://web/").header(header) == str(tries)
    assert "Traceback" not in proxy.console()


def test_a_bare_checkout_needs_no_installation(mesh, tmp_path):
    checkout = tmp_path / "checkout"
    for package in ("addons", "control"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    proxy = Proxy(tmp_path / "empty", mesh.url, mesh_script=checkout / "addons/mesh.py")
    # Its own code it must be, not what is installed beside it.
    forwarder = checkout / "addons/forwarder.py"
    forwarder.write_text(forwarder.read_text().replace("x-mesh-attempts", "x-copied"))
    policy_works(mesh, proxy, "x-copied")


def test_from_a_relative_path_in_the_checkout(mesh, tmp_path):
    (tmp_path / "addons").symlink_to(ROOT / "addons")
    (tmp_path / "control").symlink_to(ROOT / "control")
    policy_works(mesh, Proxy(tmp_path, mesh.url, mesh_script=Path("addons/mesh.py")))


def test_the_wheels_script_in_mitmdump(mesh, tmp_path, installed):  # noqa: F811
    policy_works(mesh, Proxy(tmp_path / "empty", mesh.url, mesh_script=installed / "addons/mesh.py"))


def test_the_wheels_mitmesh_proxy(mesh, tmp_path, installed):  # noqa: F811
    port = free_port()
    command = [
        sys.executable, str(installed / "bin/mitmesh"), "proxy", "--redis", mesh.url, "--outbound", str(port),
        "--listen-host", "127.0.0.1", "--node", f"node-{port}", "--access-log", "",
    ]  # fmt: skip
    environment = {"PYTHONPATH": str(installed)}
    policy_works(mesh, Proxy(tmp_path / "empty", None, port=port, command=command, environment=environment))


def test_the_environment_names_redis_and_the_mesh(valkey_server: Valkey, redis_url, tmp_path):
    mesh = Mesh(redis_url, "other")
    environment = {"MITMESH_REDIS": redis_url, "MITMESH_NAME": "other"}
    policy_works(mesh, Proxy(tmp_path, None, environment=environment))


def test_several_modes_at_once(mesh, tmp_path):
    regular, reverse = free_port(), free_port()
    with Upstream() as upstream:
        mesh.apply(f'service: web\nendpoints: ["{upstream.address}"]')
        modes = [f"regular@{regular}", f"reverse:http://web@{reverse}"]
        with running(Proxy(tmp_path, mesh.url, port=reverse, modes=modes)):
            assert get(regular, "http://web/a").body == b"ok"
            assert get(reverse, "/b").body == b"ok"


def test_a_users_script_before_the_mesh_is_heard(mesh, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        "def request(flow):\n"
        "    if flow.request.path == '/own':\n"
        "        from mitmproxy import http\n"
        "        flow.response = http.Response.make(201, b'mine')\n"
        "    flow.request.headers['x-group'] = 'qa'\n"
        "    flow.request.path = flow.request.path.replace('/old', '/new')\n"
        "def response(flow):\n"
        "    flow.response.headers['x-script'] = 'seen'\n"
        "    flow.response.text += '!'\n"
        "class Tries:\n"
        "    def mesh_attempt(self, flow, attempt):\n"
        "        flow.metadata['tries'] = attempt.number\n"
        "    def response(self, flow):\n"
        "        flow.response.headers['x-tries'] = str(flow.metadata.get('tries'))\n"
        "addons = [Tries()]\n"
    )
    with Upstream(saying(200, "one")) as v1, Upstream(saying(200, "two")) as v2:
        mesh.apply(
            f'service: web\nendpoints: {{v1: ["{v1.address}"], v2: ["{v2.address}"]}}\nto: v1\n'
            "routes: [{match: {path: {prefix: /new}, headers: {x-group: qa}}, to: v2}]"
        )
        proxy = Proxy(tmp_path / "proxy", mesh.url, scripts=[script])
        with running(proxy):
            got = get(proxy.port, "http://web/old/7")
            assert (got.body, got.header("x-script"), got.header("x-tries")) == (b"two!", "seen", "1")
            assert v2.targets() == ["/new/7"]
            assert get(proxy.port, "http://web/own").body == b"mine!"
            assert proxy.line("/own")["attempts"] == []


def test_mitmproxys_own_addons_go_on_working(mesh, tmp_path):
    """Of mitmdump: block, map and modify are as they were."""
    with Upstream(saying(200, "plain")) as upstream:
        mesh.apply(f'service: web\nendpoints: ["{upstream.address}"]')
        options = {"modify_body": "/~s/plain/fancy", "block_list": "/~u blocked/418"}
        saved = tmp_path / "flows"
        proxy = Proxy(tmp_path / "proxy", mesh.url, options={**options, "save_stream_file": str(saved)})
        with running(proxy):
            assert get(proxy.port, "http://web/").body == b"fancy"
            assert get(proxy.port, "http://web/blocked").status == 418
        assert b"http://web" in saved.read_bytes() or b"fancy" in saved.read_bytes()
