"""Policy that changes under load, Redis that dies and comes back, policy that somebody spoils: a real mitmdump."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Self

import pytest

from tests.conftest import StartValkey, Valkey, free_port
from tests.mesh_process import LANES, ROOT, Client, Mesh, Proxy, World, curl, eventually, get, running
from tests.upstream import Upstream, saying


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World(tmp_path_factory.mktemp("redis")) as world:
        yield world


class Load:
    """So many connections that ask for the same URL without a pause; `failed` holds what was not a 200."""

    def __init__(self, port: int, url: str, connections: int = 8) -> None:
        self.failed: list[object] = []
        self.done = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, url)) for _ in range(connections)]

    def _run(self, port: int, url: str) -> None:
        with Client(port) as client:
            while not self._over.is_set():
                try:
                    got = client.get(url)
                except Exception as error:
                    self.failed.append(error)
                    return
                self.done += 1
                if got.status != 200:
                    self.failed.append(got)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_the_articles_curl_before_and_after_a_change_of_the_tries(world):
    """A server that always fails, so that the number of requests tells the number of tries."""
    with Upstream(saying(500, "failure\n")) as server:
        for tries in (1, 3, 10, 50):
            world.apply(
                f'service: article\nhosts: ["{server.address}"]\n'
                f'retry: {{attempts: {tries}, on: [5xx, {{body: "failure\\n"}}], backoff: {{base: 0s, max: 0s}}}}'
            )
            server.requests.clear()
            done = curl("-x", f"127.0.0.1:{world.proxy.port}", f"http://{server.address}/")
            assert (done.returncode, done.stdout) == (0, "failure\n")
            assert len(server.requests) == tries


def test_no_request_fails_while_200_policies_are_applied(world):
    with Upstream() as one, Upstream() as two:
        url = f"http://{world.serve('timeout: 30s', one.address)}/load"
        service = url.split("/")[2]
        with Load(world.proxy.port, url) as load:
            for number in range(200):
                endpoints = [one.address, two.address][: 1 + number % 2]
                world.mesh.apply(
                    f"service: {service}\ntimeout: 30s\nendpoints: {json.dumps(endpoints)}\nretry: {1 + number % 5}\n"
                    f"routes: [{{match: {{path: /r{number}}}, respond: {{status: 500}}}}]"
                )
            world.proxy.in_force(world.mesh, world.mesh.stored().revision)
        assert load.failed == []
        assert load.done > 100
        revisions = [line["revision"] for line in world.proxy.lines() if line["path"] == "/load"]
        assert len(set(revisions)) > 10
        assert get(world.proxy.port, f"http://{service}/r199").status == 500


def test_redis_dies_and_comes_back_with_a_policy_that_another_wrote_meanwhile(
    tmp_path, start_valkey: StartValkey
):
    valkey = start_valkey(persist=True)
    mesh = Mesh(valkey.url)
    with Upstream() as upstream:
        mesh.apply(f'service: web\nendpoints: ["{upstream.address}"]')
        proxy = Proxy(tmp_path / "proxy", valkey.url)
        with running(proxy), Load(proxy.port, "http://web/", 4) as load:
            proxy.in_force(mesh, 1)
            valkey.kill()
            at_death = load.done
            eventually(lambda: "going on with revision 1" in proxy.console())
            eventually(lambda: load.done > at_death + 100)
            # The other writer works on the same data where the proxy does not look.
            elsewhere = Valkey(tmp_path / "elsewhere", persist=True)
            move_data(valkey, elsewhere)
            elsewhere.start()
            Mesh(elsewhere.url).apply(
                f'service: web\nendpoints: ["{upstream.address}"]\nresponse_headers: {{set: {{x-new: yes}}}}'
            )
            elsewhere.kill()
            move_data(elsewhere, valkey)
            valkey.start()
            back = time.monotonic()
            eventually(lambda: get(proxy.port, "http://web/").header("x-new") == "yes")
            assert time.monotonic() - back < 2
        assert load.failed == []
        assert proxy.console().count("going on with revision") == 1
        assert "Traceback" not in proxy.console()


def move_data(source: Valkey, target: Valkey) -> None:
    """What a server that has stopped has written, for another to start with."""
    target.folder.mkdir(parents=True, exist_ok=True)
    for file in list(target.folder.glob("appendonlydir/*")):
        file.unlink()
    (target.folder / "appendonlydir").mkdir(exist_ok=True)
    for file in (source.folder / "appendonlydir").iterdir():
        (target.folder / "appendonlydir" / file.name).write_bytes(file.read_bytes())


def test_a_change_during_a_dead_subscription_is_found(tmp_path, start_valkey: StartValkey):
    """The connection is cut at the server and its publication goes to nobody."""
    valkey = start_valkey()
    mesh = Mesh(valkey.url)
    proxy = Proxy(tmp_path / "proxy", valkey.url)
    with running(proxy):
        mesh.apply("service: web\nrespond: {body: one}")
        proxy.in_force(mesh, 1)
        valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        mesh.apply("service: web\nrespond: {body: two}")
        eventually(lambda: get(proxy.port, "http://web/").body == b"two", within=10)


def test_a_redis_that_froze_is_noticed_and_followed_again(tmp_path, start_valkey: StartValkey):
    valkey = start_valkey()
    mesh = Mesh(valkey.url)
    proxy = Proxy(tmp_path / "proxy", valkey.url)
    with running(proxy):
        mesh.apply("service: web\nrespond: {body: one}")
        proxy.in_force(mesh, 1)
        valkey.freeze()
        eventually(lambda: "going on with revision 1" in proxy.console())
        assert get(proxy.port, "http://web/").body == b"one"
        valkey.thaw()
        mesh.apply("service: web\nrespond: {body: two}")
        eventually(lambda: get(proxy.port, "http://web/").body == b"two", within=10)


def test_a_redis_that_comes_back_empty_does_not_switch_the_mesh_off(tmp_path, start_valkey: StartValkey):
    """One without persistence, restarted: the proxy's copy is then the only one there is."""
    valkey = start_valkey()
    mesh = Mesh(valkey.url)
    cache = tmp_path / "cache.json"
    proxy = Proxy(tmp_path / "proxy", valkey.url, options={"mesh_cache": str(cache)})
    with running(proxy):
        for _ in range(3):
            mesh.apply("service: web\nrespond: {body: one}")
            mesh.apply("service: web\nrespond: {body: two}")
        proxy.in_force(mesh, 6)
        valkey.kill()
        valkey.start()
        eventually(lambda: proxy.console().count("following redis://") == 2)
        assert get(proxy.port, "http://web/").body == b"two"
        (node,) = eventually(mesh.nodes).values()
        assert "empty" in node.error
        assert "web" in cache.read_text()
        mesh.apply("service: web\nrespond: {body: three}")
        eventually(lambda: get(proxy.port, "http://web/").body == b"three")
        assert eventually(mesh.nodes)[proxy.node].error == ""


# Without Redis at the start


def test_started_without_redis_it_answers_503_np_until_there_is_one(tmp_path, start_valkey: StartValkey):
    port = free_port()
    proxy = Proxy(tmp_path / "proxy", f"redis://:secret@127.0.0.1:{port}/0")
    with Upstream() as upstream, running(proxy):
        got = get(proxy.port, f"http://{upstream.address}/")
        assert (got.status, got.flag) == (503, "NP")
        assert got.text == (
            f"no policy: Redis at redis://:***@127.0.0.1:{port}/0 has given none yet and there is no cache;"
            " start Redis there, or name another with --set mesh_redis=URL\n"
        )
        assert upstream.connections == 0
        line = eventually(proxy.lines)[0]
        assert (line["status"], line["flags"], line["revision"]) == (503, "NP", None)
        assert "secret" not in proxy.console()
        start_valkey(port=port, options={"requirepass": "secret"})
        eventually(lambda: get(proxy.port, f"http://{upstream.address}/").status == 200)


@pytest.mark.parametrize("method", ["POST", "CONNECT"])
def test_without_policy_nothing_passes_in_other_ways(tmp_path, method):
    proxy = Proxy(
        tmp_path / "proxy", f"redis://127.0.0.1:{free_port()}", options={"stream_large_bodies": "1k"}
    )
    with Upstream() as upstream, running(proxy):
        target = f"http://{upstream.address}/"
        arguments = {
            "POST": ["--data-binary", "x" * 5000, target],
            "CONNECT": ["--proxytunnel", "--http1.1", target],
        }
        done = curl("-x", f"127.0.0.1:{proxy.port}", *arguments[method])
        # The tunnel itself is refused; its text, which curl does not show, is looked at below.
        said = {"POST": "no policy", "CONNECT": "CONNECT tunnel failed, response 503"}
        assert said[method] in done.stdout + done.stderr
        assert upstream.requests == []
        assert upstream.connections == 0


def tunnel(port: int, target: str) -> bytes:
    """What a proxy says to CONNECT, and behind it what comes back for bytes that are no HTTP."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
        said = client.recv(1000)
        if not said.startswith(b"HTTP/1.1 200 "):
            # The answer's one line of text may come behind its head.
            while not said.partition(b"\r\n\r\n")[2].endswith(b"\n"):
                said += client.recv(1000)
            return said
        with contextlib.suppress(OSError):
            client.sendall(b"SSH-2.0-x\r\n")
            while data := client.recv(1000):
                said += data
    return said


@pytest.mark.parametrize("lane", LANES)
def test_a_tunnel_is_no_way_around_the_policy(tmp_path, start_valkey: StartValkey, lane):
    port = free_port()
    proxy = Proxy(tmp_path / "proxy", f"redis://127.0.0.1:{port}", **lane)
    with socket.create_server(("127.0.0.1", 0)) as database, running(proxy):
        database.settimeout(20)
        target = f"127.0.0.1:{database.getsockname()[1]}"
        said = tunnel(proxy.port, target)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"no policy" in said
        start_valkey(port=port)
        mesh = Mesh(f"redis://127.0.0.1:{port}")
        revision = mesh.apply('service: "*"\nunknown_hosts: refuse')
        proxy.in_force(mesh, revision)
        said = tunnel(proxy.port, target)
        assert said.startswith(b"HTTP/1.1 404 ")
        assert f"no service of the mesh claims the host {target}".encode() in said
        flags = eventually(lambda: [line["flags"] for line in proxy.lines()][1:] and proxy.lines())
        assert [(line["method"], line["status"], line["flags"]) for line in flags] == [
            ("CONNECT", 503, "NP"), ("CONNECT", 404, "NR"),
        ]  # fmt: skip
        # Claimed, it is let through.
        revision = mesh.apply(f'service: database\nhosts: ["{target}"]')
        proxy.in_force(mesh, revision)
        with contextlib.ExitStack() as stack:
            answers = []
            thread = threading.Thread(target=lambda: answers.append(tunnel(proxy.port, target)))
            thread.start()
            connection, _ = database.accept()
            stack.callback(thread.join)
            with connection:
                assert connection.recv(100) == b"SSH-2.0-x\r\n"
                connection.sendall(b"hello")
        assert answers[0].startswith(b"HTTP/1.1 200 ")
        assert answers[0].endswith(b"hello")


def test_with_a_cache_it_serves(tmp_path, start_valkey: StartValkey):
    valkey = start_valkey()
    cache = tmp_path / "cache.json"
    options = {"mesh_cache": str(cache)}
    mesh = Mesh(valkey.url)
    with Upstream() as upstream:
        mesh.apply(
            f'service: web\nendpoints: ["{upstream.address}"]\nresponse_headers: {{set: {{x-policy: old}}}}'
        )
        first = Proxy(tmp_path / "first", valkey.url, options=options)
        with running(first):
            eventually(cache.exists)
        valkey.kill()
        second = Proxy(tmp_path / "second", valkey.url, options=options)
        with running(second):
            assert get(second.port, "http://web/").header("x-policy") == "old"
            assert (
                f"mesh_cache {cache}: revision 1 in force until Redis gives a newer one" in second.console()
            )
            assert second.line("/")["revision"] == 1


def test_a_cache_that_cannot_be_read_is_named(tmp_path):
    cache = tmp_path / "cache.json"
    cache.write_text("{")
    proxy = Proxy(tmp_path / "proxy", f"redis://127.0.0.1:{free_port()}", options={"mesh_cache": str(cache)})
    proxy.launch()
    try:
        eventually(lambda: f"mesh_cache {cache}: not usable" in proxy.console())
        assert "Traceback" not in proxy.console()
    finally:
        proxy.kill()


# Policy spoiled by hand


@pytest.mark.parametrize("cached", [False, True])
def test_started_on_a_spoiled_policy_it_says_so_or_serves_from_its_cache(tmp_path, start_valkey, cached):
    valkey = start_valkey()
    cache = tmp_path / "cache.json"
    options = {"mesh_cache": str(cache)} if cached else {}
    mesh = Mesh(valkey.url)
    mesh.apply("service: web\nrespond: {body: good}")
    if cached:
        first = Proxy(tmp_path / "first", valkey.url, options=options)
        with running(first):
            eventually(cache.exists)
    valkey.command("HSET", "{mesh}:policy", "web", "nonsense")
    valkey.command("INCR", "{mesh}:revision")
    second = Proxy(tmp_path / "second", valkey.url, options=options)
    with running(second):
        got = get(second.port, "http://web/")
        error = eventually(lambda: mesh.nodes().get(second.node)).error
        assert error.startswith("refused revision 2: redis: web")
        if cached:
            assert got.body == b"good"
        else:
            assert (got.status, got.flag) == (503, "NP")
            assert got.text.startswith("no policy: refused revision 2: redis: web")
        mesh.apply("service: web\nrespond: {body: repaired}")
        second.in_force(mesh, 3)
        assert get(second.port, "http://web/").body == b"repaired"


NONSENSE = {
    "no JSON": "nonsense",
    "no mapping": "[]",
    "unknown field": '{"service": "spoiled", "retries": 3}',
    "another service": '{"service": "other"}',
    "deep": "[" * 100_000,
    "not UTF-8": b"\xff\xfe\x00",
    "empty": "",
    "number": "1e999",
}


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_with_a_new_revision_is_refused_and_the_last_good_policy_stays(world, text):
    mesh, proxy, command = world.mesh, world.proxy, world.valkey.command
    url = f"http://{world.serve('respond: {body: good}')}/"
    before = mesh.stored().revision
    command("HSET", "{mesh}:policy", "spoiled", text)
    command("INCR", "{mesh}:revision")
    # Not needed, but it spares a wait for the next look.
    command("PUBLISH", "{mesh}:changes", "by hand")
    try:
        error = eventually(lambda: mesh.nodes()[proxy.node].error)
        assert error.startswith(f"refused revision {before + 1}: redis: spoiled")
        assert mesh.nodes()[proxy.node].revision == before
        assert f"refused revision {before + 1}: redis: spoiled" in proxy.console()
        assert world.get(url).body == b"good"
    finally:
        command("HDEL", "{mesh}:policy", "spoiled")
        command("INCR", "{mesh}:revision")
        command("PUBLISH", "{mesh}:changes", "by hand")
    proxy.in_force(mesh, before + 2)
    assert mesh.nodes()[proxy.node].error == ""
    assert world.get(url).body == b"good"


def test_nonsense_without_a_new_revision_is_found_too(world):
    mesh, proxy, command = world.mesh, world.proxy, world.valkey.command
    service = world.serve("respond: {body: good}")
    command("HSET", "{mesh}:policy", service, "nonsense")
    error = eventually(lambda: mesh.nodes()[proxy.node].error, within=40)
    assert service in error
    assert world.get(f"http://{service}/").body == b"good"
    # An ordinary apply repairs it.
    world.change(service, "respond: {body: best}")
    assert world.get(f"http://{service}/").body == b"best"
    assert mesh.nodes()[proxy.node].error == ""


@pytest.mark.parametrize("key", ["policy", "revision"])
def test_keys_of_a_wrong_type_do_no_harm(tmp_path, start_valkey: StartValkey, key):
    valkey = start_valkey()
    mesh = Mesh(valkey.url)
    proxy = Proxy(tmp_path / "proxy", valkey.url)
    with running(proxy):
        mesh.apply("service: web\nrespond: {body: good}")
        proxy.in_force(mesh, 1)
        backup = valkey.command("DUMP", f"{{mesh}}:{key}")
        valkey.command("RENAME", f"{{mesh}}:{key}", "{mesh}:kept")
        valkey.command("SET", f"{{mesh}}:{key}", "spoiled")
        valkey.command("PUBLISH", "{mesh}:changes", "look")
        eventually(lambda: re.search(r"spoiled|no hash|wrong|cannot use", proxy.console()))
        assert get(proxy.port, "http://web/").body == b"good"
        valkey.command("RENAME", "{mesh}:kept", f"{{mesh}}:{key}")
        assert backup
        mesh.apply("service: web\nrespond: {body: again}")
        eventually(lambda: get(proxy.port, "http://web/").body == b"again", within=30)
    assert "Traceback" not in proxy.console()


def test_status_names_the_node_and_what_it_refused(world):
    command = world.valkey.command
    command("HSET", "{mesh}:policy", "spoiled", "nonsense")
    command("INCR", "{mesh}:revision")
    try:
        eventually(lambda: world.mesh.nodes()[world.proxy.node].error)
        done = subprocess.run(
            [sys.executable, "-m", "control", "status", "--redis", world.mesh.url],
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert world.proxy.node in done.stdout
        assert "refused revision" in done.stdout
    finally:
        command("HDEL", "{mesh}:policy", "spoiled")
        command("INCR", "{mesh}:revision")
        world.proxy.in_force(world.mesh, world.mesh.stored().revision)
