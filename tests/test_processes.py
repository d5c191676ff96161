"""Children of the demo: they start, say why when they cannot, and never outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.commands.failure import Failed
from control.demo import processes
from control.demo.processes import Processes, is_taken
from tests.conftest import free_port
from tests.family import alive, ended

ROOT = Path(__file__).parent.parent
FOREVER = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
PARENT = (
    "import subprocess, sys, signal; c = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
    "print(c.pid, flush=True); signal.pause()"
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def said(child: processes.Child) -> str:
    """Its first line, once it has said one."""
    deadline = time.monotonic() + 10
    while not (text := child.log.read_text()).endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return text.strip()


@pytest.mark.parametrize("source", [FOREVER, STUBBORN], ids=["polite", "stubborn"])
def test_children_end_with_the_block(tmp_path, monkeypatch, source):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.3)
    with Processes(tmp_path) as started:
        child = started.start("child", python(source))
        assert said(child) == "up"
    assert child.process.returncode == (-signal.SIGTERM if source == FOREVER else -signal.SIGKILL)


@linux
def test_children_of_children_end_too(tmp_path):
    with Processes(tmp_path) as started:
        grandchild = int(said(started.start("parent", python(PARENT))))
        assert alive(grandchild)
    assert ended({grandchild})


def test_what_was_started_ends_when_the_next_cannot_start(tmp_path):
    with pytest.raises(Failed) as failed, Processes(tmp_path) as started:
        first = started.start("first", python(FOREVER))
        started.start("second", ["/no/such/program"])
    assert failed.value.lines == (
        "error: second cannot be started: /no/such/program: No such file or directory",
    )
    assert first.process.returncode == -signal.SIGTERM


async def test_a_child_that_ends_before_it_listens_says_why(tmp_path):
    with Processes(tmp_path) as started:
        child = started.start("server", python("import sys; sys.exit('no luck\\n')"))
        with pytest.raises(Failed, match="error: server ended: no luck"):
            await child.listening("127.0.0.1", free_port())


async def test_a_child_that_never_listens_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 0.1)
    port = free_port()
    with Processes(tmp_path) as started:
        with pytest.raises(Failed, match=f"server does not listen on 127.0.0.1:{port}"):
            await started.start("server", python(FOREVER)).listening("127.0.0.1", port)


def test_a_child_that_has_ended_is_noticed(tmp_path):
    with Processes(tmp_path) as started:
        child = started.start("child", python("raise SystemExit(3)"))
        child.process.wait(10)
        with pytest.raises(Failed, match="error: child ended: exit status 3"):
            started.check()


@linux
def test_children_end_with_a_parent_that_is_killed(tmp_path):
    script = (
        "import sys, signal, pathlib; from control.demo.processes import Processes;"
        f"c = Processes(pathlib.Path({str(tmp_path)!r})).start('child', [sys.executable, '-c', {STUBBORN!r}]);"
        "print(c.process.pid, flush=True); signal.pause()"
    )
    parent = subprocess.Popen(python(script), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.communicate()
    assert ended({child})


def test_a_child_leads_its_own_group_so_that_ctrl_c_reaches_the_parent_alone(tmp_path):
    with Processes(tmp_path) as started:
        child = started.start("child", python(FOREVER))
        assert os.getpgid(child.process.pid) == child.process.pid != os.getpgid(0)


def test_a_port_is_taken_while_somebody_listens():
    import socket

    port = free_port()
    assert not is_taken(port)
    with socket.create_server(("127.0.0.1", port)):
        assert is_taken(port)
    assert not is_taken(port)
