"""Certificates that live for seconds, and a new root, while requests go through two proxies: none may fail."""

import re
import subprocess
import sys

import pytest

from tests.mesh_process import ROOT


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_request_fails_while_certificates_and_the_root_are_renewed():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.renewal", "--seconds", "24", "--lifetime", "8s", "--clients", "4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    issued = re.search(r"web had (\d+), shop (\d+)", done.stdout)
    assert issued
    assert min(map(int, issued.groups())) >= 3
    assert re.search(r"[1-9]\d* requests of a foreign client over 1 connection, 0 failed", done.stdout)
