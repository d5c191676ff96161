"""Proxies in front of a service register themselves, and callers follow: real processes, killed and stopped under load."""

import json
import sys
import time
from collections import Counter

import pytest

from control.store_registry import by_service
from tests.conftest import StartValkey, free_port
from tests.mesh_process import LANES, ROOT, Mesh, Proxy, confdir, eventually, get, running
from tests.test_end_to_end_redis import Load
from tests.upstream import Upstream, saying


def inbound(folder, redis: str, upstream: Upstream, **options: str) -> Proxy:
    """What `mitmesh proxy --service web --inbound PORT:...` runs."""
    port = free_port()
    return Proxy(
        folder,
        redis,
        port=port,
        modes=[f"reverse:http://{upstream.address}@{port}"],
        options={"mesh_service": "web", "mesh_inbound": str(port), **options},
        lean=True,
    )


def registered(mesh: Mesh) -> set[str]:
    found = by_service(mesh.use(lambda store: store.registrations())).get("web", ())
    return {endpoint.address for endpoint in found}


def address(proxy: Proxy) -> str:
    return f"127.0.0.1:{proxy.port}"


@pytest.fixture
def valkey(start_valkey: StartValkey):
    return start_valkey()


@pytest.fixture
def upstream():
    with Upstream(saying(200, "hello")) as upstream:
        yield upstream


@pytest.mark.parametrize("lane", LANES)
def test_one_of_two_is_killed_and_nobody_calls_it_any_more(tmp_path, valkey, upstream, lane, record_property):
    mesh = Mesh(valkey.url)
    one, two = (inbound(tmp_path / name, valkey.url, upstream) for name in ("one", "two"))
    caller = Proxy(tmp_path / "caller", valkey.url, **lane)
    revision = mesh.apply("service: web\nendpoints: auto")
    with running(one, two, caller):
        caller.in_force(mesh, revision)
        eventually(lambda: registered(mesh) == {address(one), address(two)})

        def used() -> set[str]:
            for _ in range(6):
                get(caller.port, "http://web/x")
            return {each["attempts"][0]["endpoint"] for each in caller.lines()[-6:]}

        eventually(lambda: used() == {address(one), address(two)})
        one.kill()
        begun = time.monotonic()
        failed = [time.monotonic()]

        def over() -> bool:
            if get(caller.port, "http://web/y").status != 200:
                failed.append(time.monotonic())
            # Not the one that is dead for as long as some would have gone to it by turns.
            return time.monotonic() - failed[-1] > 1

        eventually(over)
        gone_after = failed[-1] - begun
        record_property("seconds until the last request to the dead one", round(gone_after, 3))
        print(f"\nkill -9: the last request to the dead endpoint {gone_after:.2f} s after")
        assert registered(mesh) == {address(two)}
        assert used() == {address(two)}


@pytest.mark.parametrize("lane", LANES)
def test_one_of_two_is_stopped_under_load_and_no_request_fails(tmp_path, valkey, upstream, lane):
    mesh = Mesh(valkey.url)
    one, two = (inbound(tmp_path / name, valkey.url, upstream) for name in ("one", "two"))
    caller = Proxy(tmp_path / "caller", valkey.url, **lane)
    revision = mesh.apply("service: web\nendpoints: auto")
    with running(one, two, caller):
        caller.in_force(mesh, revision)
        eventually(lambda: get(caller.port, "http://web/").status == 200)
        eventually(lambda: registered(mesh) == {address(one), address(two)})
        with Load(caller.port, "http://web/load", 4) as load:
            eventually(lambda: load.done > 50)
            assert one.stop() == 0
            there = load.done
            assert registered(mesh) == {address(two)}
            eventually(lambda: load.done > there + 50)
        assert load.failed == []
        by_endpoint = Counter(
            each["attempts"][0]["endpoint"] for each in caller.lines() if each["path"] == "/load"
        )
        assert set(by_endpoint) == {address(one), address(two)}


def test_versions_that_nobody_has_registered_yet(tmp_path, valkey, upstream):
    mesh = Mesh(valkey.url)
    caller = Proxy(tmp_path / "caller", valkey.url)
    mesh.apply(
        "service: web\nendpoints: auto\nroutes: [{match: {path: /v2}, to: v2}, {match: {path: /v3}, to: v3}]"
    )
    two = inbound(tmp_path / "two", valkey.url, upstream, mesh_version="v2")
    with running(caller):
        eventually(lambda: get(caller.port, "http://web/").flag == "UH")
        assert get(caller.port, "http://web/v2").flag == "UH"
        with running(two):
            eventually(lambda: get(caller.port, "http://web/v2").status == 200)
            assert get(caller.port, "http://web/").status == 200
            absent = get(caller.port, "http://web/v3")
            assert (absent.status, absent.flag) == (503, "UH")
            assert get(caller.port, "http://web/logged").status == 200
            assert caller.line("/logged")["attempts"][0]["endpoint"] == address(two)
        eventually(lambda: get(caller.port, "http://web/v2").flag == "UH")


def test_without_redis_callers_go_on_with_whom_they_know(tmp_path, valkey, upstream):
    mesh = Mesh(valkey.url)
    one = inbound(tmp_path / "one", valkey.url, upstream)
    caller = Proxy(tmp_path / "caller", valkey.url, options={"mesh_cache": str(tmp_path / "cache.json")})
    mesh.apply("service: web\nendpoints: auto")
    with running(one, caller):
        eventually(lambda: get(caller.port, "http://web/").status == 200)
        valkey.kill()
        eventually(lambda: "going on with revision 1" in caller.console())
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert get(caller.port, "http://web/").status == 200
        # One that starts now has it from the file.
        eventually(lambda: address(one) in (tmp_path / "cache.json").read_text())
        later = Proxy(tmp_path / "later", valkey.url, options={"mesh_cache": str(tmp_path / "cache.json")})
        with running(later):
            eventually(lambda: get(later.port, "http://web/").status == 200)
        # It comes back without its memory.
        valkey.start()
        with Load(caller.port, "http://web/", 2) as load:
            eventually(lambda: registered(mesh) == {address(one)})
            there = load.done
            eventually(lambda: load.done > there + 50)
        assert load.failed == []


def test_workers_are_one_endpoint_and_it_is_gone_with_the_last(tmp_path, valkey, upstream):
    mesh = Mesh(valkey.url)
    mesh.apply("service: web\nendpoints: auto")
    port = free_port()
    command = [
        *(sys.executable, "-P", str(ROOT / "addons/lean_proxy.py"), "--workers", "2"),
        *("--mode", f"reverse:http://{upstream.address}@{port}", "--listen-host", "127.0.0.1"),
        *("--set", f"confdir={confdir()}", "--set", f"mesh_redis={valkey.url}", "--set", "mesh_service=web"),
        *("--set", f"mesh_inbound={port}", "--set", "mesh_access_log="),
    ]
    both = Proxy(tmp_path / "both", valkey.url, port=port, command=command)
    with running(both):
        nodes = eventually(
            lambda: (found := mesh.use(lambda store: store.registrations())) and len(found) == 2 and found
        )
        assert registered(mesh) == {f"127.0.0.1:{port}"}
        assert {each.endpoint.version for each in nodes.values()} == {"default"}
        status = json.loads(mitmesh("status", "--json", "--redis", valkey.url))
        (endpoint,) = status["endpoints"]
        assert (endpoint["address"], endpoint["service"], endpoint["mtls"]) == (
            f"127.0.0.1:{port}",
            "web",
            False,
        )
        assert endpoint["nodes"] == sorted(nodes)
        text = mitmesh("status", "--redis", valkey.url)
        assert "ENDPOINTS OF" in text
        explained = json.loads(mitmesh("explain", "GET", "http://web/", "--json", "--redis", valkey.url))
        assert explained["to"][0]["endpoints"] == [f"127.0.0.1:{port}"]
    assert registered(mesh) == set()


def mitmesh(*arguments: str) -> str:
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "control", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_advertised_is_what_the_proxy_is_told(tmp_path, valkey, upstream):
    mesh = Mesh(valkey.url)
    mesh.apply("service: web\nendpoints: auto")
    one = inbound(tmp_path / "one", valkey.url, upstream, mesh_advertise="Web.Example:8080")
    with running(one):
        eventually(lambda: registered(mesh) == {"web.example:8080"})
