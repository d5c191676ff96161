"""One load: what is asked, by wrk, and what wrk found."""

import http.client
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Cores, prepare

TIMEOUT = 30
"""Seconds that wrk waits for one answer."""

# Percentiles come in microseconds, the duration too.
_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {"requests": %d, "duration": %d, "bytes": %d, "p50": %.1f, "p99": %.1f, ' ..
    '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True)
class Shape:
    """One kind of request, and the body of the answer that shows it was served."""

    name: str
    path: str
    answer: bytes
    body: bytes = b""
    close: bool = False
    """A connection for each request."""

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"


@dataclass(frozen=True)
class Door:
    """How to knock at a proxy. hosts: named in turn by the requests; absolute: as `http://host/path`, for a forward proxy."""

    port: int
    hosts: tuple[str, ...]
    absolute: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    def target(self, shape: Shape, host: str) -> str:
        return f"http://{host}{shape.path}" if self.absolute else shape.path


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it. rate: requests per second; p50, p99: seconds. errors: "" if every request was answered 200."""

    requests: int
    rate: float
    p50: float
    p99: float
    errors: str


def check(door: Door, shape: Shape) -> str:
    """Ask once. What is wrong with the answer, "" if nothing is."""
    for host in {door.hosts[0], door.hosts[-1]}:
        connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
        headers = {"Host": host, **dict(door.headers), **({"Connection": "close"} if shape.close else {})}
        try:
            connection.request(shape.method, door.target(shape, host), shape.body or None, headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {error!r}"
        finally:
            connection.close()
        if answer.status != 200:
            return f"status {answer.status}: {body[:100].decode(errors='replace').strip()}"
        if body != shape.answer:
            return f"a wrong body of {len(body)} bytes"
    return ""


def run(door: Door, shape: Shape, connections: int, seconds: int, cores: Cores, folder: Path) -> Load:
    """Load it from `connections` connections, each sending as soon as it is answered."""
    script = folder / "load.lua"
    script.write_text(_lua(door, shape) + _DONE)
    process = subprocess.Popen(
        [
            *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", f"{TIMEOUT}s"),
            *("-s", str(script), f"http://127.0.0.1:{door.port}/"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
        preexec_fn=prepare(cores),  # noqa: PLW1509 - no other thread runs
    )
    try:
        said = process.communicate(timeout=seconds + 2 * TIMEOUT)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        return Load(0, 0, 0, 0, "wrk did not end")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return parse(said)


def parse(said: str) -> Load:
    """Read the line that _DONE writes."""
    _, mark, rest = said.partition("\nRESULT ")
    if not mark:
        return Load(0, 0, 0, 0, f"wrk: {said.strip().splitlines()[-1] if said.strip() else 'said nothing'}")
    found = json.loads(rest.splitlines()[0])
    kinds = ("connect", "read", "write", "status", "timeout")
    errors = ", ".join(f"{found[kind]} {kind} errors" for kind in kinds if found[kind])
    if not found["requests"]:
        errors = errors or "not one answer in time"
    rate = found["requests"] / (found["duration"] / 1e6)
    return Load(found["requests"], rate, found["p50"] / 1e6, found["p99"] / 1e6, errors)


def _lua(door: Door, shape: Shape) -> str:
    lines = [f'wrk.method = "{shape.method}"', f'wrk.headers["Host"] = "{door.hosts[0]}"']
    if shape.body:
        lines.append(f'wrk.body = string.rep("{shape.body[:1].decode()}", {len(shape.body)})')
    if shape.close:
        lines.append('wrk.headers["Connection"] = "close"')
    lines += [f'wrk.headers["{name}"] = "{text}"' for name, text in door.headers]
    lines.append(f'wrk.path = "{door.target(shape, door.hosts[0])}"')
    if len(door.hosts) > 1:
        # Made before the run, so that choosing one costs wrk next to nothing.
        lines += ["local made, turn = {}, 0", "function init(args)"]
        for host in door.hosts:
            lines.append(f'  wrk.headers["Host"] = "{host}"')
            lines.append(f'  made[#made + 1] = wrk.format(nil, "{door.target(shape, host)}")')
        lines += ["end", "function request() turn = turn % #made + 1 return made[turn] end"]
    return "\n".join(lines) + "\n"
