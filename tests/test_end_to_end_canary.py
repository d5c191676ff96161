"""mitmesh canary with a real Valkey, a real proxy and real load: it walks to the end, goes back, survives being killed."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.cli import MITMESH, ROOT
from tests.conftest import Valkey, die_with_parent
from tests.mesh_process import Client, Mesh, Proxy, eventually, running
from tests.upstream import Received, Reply, Upstream, answer, saying

pytestmark = pytest.mark.timeout(240)
STEPS = ("--steps", "25,50,75,100", "--every", "1s")
SLOWLY = ("--steps", "25,50,75,100", "--every", "60s")


class Canary:
    """The command as a process; its lines as they come."""

    def __init__(self, url: str, *arguments: str) -> None:
        environment = {**os.environ, "MITMESH_REDIS": url}
        environment.pop("MITMESH_NAME", None)
        self.process = subprocess.Popen(
            [*MITMESH, "canary", "reviews", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - system calls alone, no Python lock is taken
        )

    def until(self, pattern: str) -> str:
        """The first line with this in it; AssertionError with all lines if it ends without one."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError("".join(lines) + self.process.communicate()[1])

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Load:
    """Clients that ask without a pause, through the proxy, until the block ends. `statuses` counts answers."""

    def __init__(self, port: int, clients: int = 4) -> None:
        self.port = port
        self.statuses: dict[int, int] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def _ask(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError), Client(self.port) as client:
                while not self._over.is_set():
                    status = client.get("http://reviews/").status
                    self.statuses[status] = self.statuses.get(status, 0) + 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)


def failing(of_twenty: Any) -> Reply:
    """`of_twenty()` of twenty requests get a 503, evenly spread."""
    numbers = itertools.count()

    def reply(request: Received, connection: Any) -> bytes:
        number = next(numbers)
        return answer(503 if number % 20 < of_twenty() else 200, b"v2")

    return reply


class Stage:
    """Valkey, proxy, both versions, load. `fails`: how many of twenty requests v2 fails."""

    def __init__(self, folder: Path, valkey: Valkey) -> None:
        self.valkey = valkey
        self.mesh = Mesh(valkey.url)
        self.proxy = Proxy(folder / "proxy", valkey.url, lean=True)
        self.fails = 0
        self.v1 = Upstream(saying())
        self.v2 = Upstream(failing(lambda: self.fails))
        self._started: list[Canary] = []

    def canary(self, *arguments: str) -> Canary:
        self._started.append(Canary(self.valkey.url, *arguments))
        return self._started[-1]

    def split(self) -> Any:
        return json.loads(self.mesh.stored().documents["reviews"]).get("to")

    def messages(self) -> list[str]:
        return [entry.message for entry in reversed(self.mesh.use(lambda store: store.history("reviews")))]

    @contextlib.contextmanager
    def __call__(self) -> Iterator["Stage"]:
        with self.v1, self.v2, running(self.proxy):
            revision = self.mesh.apply(
                f'service: reviews\nendpoints: {{v1: ["{self.v1.address}"], v2: ["{self.v2.address}"]}}\nto: v1\n'
                "timeout: 5s"
            )
            self.proxy.in_force(self.mesh, revision)
            try:
                with Load(self.proxy.port) as self.load:
                    yield self
            finally:
                for canary in self._started:
                    canary.kill()


@pytest.fixture
def stage(tmp_path: Path, valkey: Valkey) -> Iterator[Stage]:
    with Stage(tmp_path, valkey)() as stage:
        yield stage


def test_a_good_version_gets_everything(stage: Stage) -> None:
    code, out, err = stage.canary("--to", "v2", *STEPS, "--max-p99", "30s").end()
    assert (code, err) == (0, ""), out + err
    assert stage.split() == {"v1": 0, "v2": 100}
    assert stage.messages() == ["", *(f"canary to v2: {percent} %" for percent in (25, 50, 75, 100))]
    assert "reviews: done: v2 has 100 %, revision 5" in out
    assert json.loads(stage.mesh.stored().documents["reviews"])["timeout"] == "5s"
    assert set(stage.load.statuses) == {200}


def test_five_per_cent_of_failures_end_it_within_two_windows(stage: Stage) -> None:
    canary = stage.canary("--to", "v2", "--steps", "50,60,70,80,90,100", "--every", "1s", "--json")
    canary.until('"event": "step".*"step": 2,')
    stage.fails = 1
    code, out, err = canary.end()
    events = [json.loads(line) for line in out.splitlines()]
    last = events[-1]
    assert (code, last["event"], last["status"]) == (1, "ended", "back"), out + err
    assert re.search(r"% of \d+ requests to v2 failed \(\d+\), more than 1 %", last["why"])
    # The window in which it began may still pass; the next one, which sees nothing else, cannot.
    assert last["step"] <= 3
    assert stage.split() == {"v1": 100, "v2": 0}
    before = len(stage.v2.requests)
    seen = sum(stage.load.statuses.values())
    eventually(lambda: sum(stage.load.statuses.values()) > seen + 200)
    assert len(stage.v2.requests) - before <= 8
    assert stage.messages()[-1].startswith("canary to v2: back to v1: ")


def test_killed_and_started_again_it_goes_on(stage: Stage) -> None:
    arguments = ("--to", "v2", *STEPS)
    first = stage.canary(*arguments)
    first.until("step 2 of 4")
    first.process.send_signal(signal.SIGKILL)
    first.end()
    assert stage.split() == {"v1": 50, "v2": 50}
    ran = stage.canary("--status").end()
    assert ran[1].startswith("reviews: under way to v2, step 2 of 4: it stands at v1 50, v2 50, revision 3\n")
    other = stage.canary("--to", "v2", "--steps", "10,100").end()
    assert other[0] == 2
    assert "another canary of reviews is under way: step 2 of 4" in other[2]
    code, out, err = stage.canary(*arguments).end()
    assert code == 0, out + err
    assert "step 1 of 4" not in out
    assert "step 2 of 4" in out
    assert stage.split() == {"v1": 0, "v2": 100}
    assert len(stage.messages()) == 5


def test_ctrl_c_says_what_stands_and_the_next_run_goes_on_or_ends_it(stage: Stage) -> None:
    first = stage.canary("--to", "v2", *SLOWLY)
    first.until("step 1 of 4")
    second = stage.canary("--to", "v2", *SLOWLY).end()
    assert second[0] == 2
    assert "a canary of reviews is being run by " in second[2]
    first.process.send_signal(signal.SIGINT)
    code, _, err = first.end()
    assert code == 130
    assert "reviews: interrupted at step 1 of 4: v1 75, v2 25" in err
    assert "go on: mitmesh canary reviews; go back: mitmesh canary reviews --abort" in err
    third = stage.canary("--on-interrupt", "back")
    third.until("step 1 of 4")
    third.process.send_signal(signal.SIGTERM)
    code, out, err = third.end()
    assert (code, err) == (130, "")
    assert "reviews: back to v1, revision 3: ended by Ctrl-C" in out
    assert stage.split() == {"v1": 100, "v2": 0}


def test_abort_from_elsewhere_ends_the_run(stage: Stage) -> None:
    first = stage.canary("--to", "v2", *SLOWLY)
    first.until("step 1 of 4")
    code, out, err = stage.canary("--abort").end()
    assert (code, err) == (0, ""), out
    assert "reviews: back to v1, revision 3: ended by " in out
    code, out, err = first.end()
    assert (code, err) == (1, "")
    assert "reviews: back to v1" in out
    assert stage.split() == {"v1": 100, "v2": 0}
    assert stage.canary("--abort").end()[0] == 2


def test_a_split_that_somebody_else_changed_is_left_alone(stage: Stage) -> None:
    first = stage.canary("--to", "v2", "--steps", "25,50,75,100", "--every", "3s")
    first.until("step 1 of 4")
    document = json.loads(stage.mesh.stored().documents["reviews"])
    stage.mesh.apply(json.dumps({**document, "timeout": "4s"}))
    first.until("step 2 of 4")
    document = json.loads(stage.mesh.stored().documents["reviews"])
    assert document["timeout"] == "4s"
    stage.mesh.apply(json.dumps({**document, "to": {"v1": 99, "v2": 1}}))
    code, out, err = first.end()
    assert code == 2, out + err
    assert (
        "stopped at step 2 of 4, nothing put back: somebody changed the split: it is now v1 99, v2 1" in out
    )
    assert stage.split() == {"v1": 99, "v2": 1}


def test_a_redis_that_was_away_changes_nothing(stage: Stage) -> None:
    first = stage.canary("--to", "v2", *STEPS)
    first.until("step 2 of 4")
    stage.valkey.kill()
    assert first.process.stderr is not None
    assert "trying again" in first.process.stderr.readline()
    stage.valkey.start()
    assert first.process.stderr.readline() == "connected again\n"
    code, out, err = first.end()
    assert code == 0, out + err
    assert stage.split() == {"v1": 0, "v2": 100}
    assert set(stage.load.statuses) == {200}
