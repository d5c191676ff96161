"""How fast the engine's client is by itself: `python benchmarks/client.py [--requests N] [--rounds N]`.

nginx answers 8 bytes; 32 requests are under way at any time. Compared in interleaved rounds with a bare asyncio
protocol that writes the same bytes and takes any read for an answer: what the event loop leaves to be had. Needs nginx.
"""

import argparse
import asyncio
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from addons.engine.call import Call  # noqa: E402
from addons.engine.client import Client  # noqa: E402
from addons.engine.origin import Origin  # noqa: E402

CONCURRENT = 32
HEAD = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "success\\n"; }} }}
}}
"""

Load = Callable[[int, int], Coroutine[Any, Any, None]]


async def awaited(port: int, requests: int) -> None:
    """The client, each call awaited by one of 32 tasks."""
    client = Client()
    origin = Origin("127.0.0.1", port)

    async def one_after_the_other() -> None:
        for _ in range(requests // CONCURRENT):
            answer = await client.send(origin, HEAD, method=b"GET", resend=True)
            assert answer.body == b"success\n"

    await asyncio.gather(*[one_after_the_other() for _ in range(CONCURRENT)])
    client.close()


async def told(port: int, requests: int) -> None:
    """The client, each call followed by the next in its callback."""
    client = Client()
    origin = Origin("127.0.0.1", port)
    over = asyncio.get_running_loop().create_future()
    left = requests

    def following(call: Call) -> None:
        nonlocal left
        assert call.answer is not None
        assert call.answer.body == b"success\n"
        left -= 1
        if left >= CONCURRENT:
            client.send(origin, HEAD, method=b"GET", resend=True).then(following)
        elif left == 0:
            over.set_result(None)

    for _ in range(CONCURRENT):
        client.send(origin, HEAD, method=b"GET", resend=True).then(following)
    await over
    client.close()


async def bare(port: int, requests: int) -> None:
    """No HTTP at all: a request is written whenever something was read."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    left = requests

    class Relay(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)
            if hasattr(transport, "max_size"):
                transport.max_size = 65536
            self.transport.write(HEAD)

        def data_received(self, data: bytes) -> None:
            nonlocal left
            left -= 1
            if left > 0:
                self.transport.write(HEAD)
            elif left == 0:
                over.set_result(None)

    made = [await loop.create_connection(Relay, "127.0.0.1", port) for _ in range(CONCURRENT)]
    await over
    for transport, _ in made:
        transport.abort()


LOADS: dict[str, Load] = {"client, awaited": awaited, "client, told": told, "bare protocol": bare}
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def measure(load: Load, loop: str, port: int, requests: int) -> tuple[float, float]:
    """Requests per second, and microseconds of this process's CPU per request."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        began, cpu = time.perf_counter(), _cpu()
        runner.run(load(port, requests))
        return requests / (time.perf_counter() - began), (_cpu() - cpu) / requests * 1e6


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def start_nginx(folder: str) -> tuple["subprocess.Popen[bytes]", int]:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        sys.exit("client.py: nginx is not installed; install it, e.g. apt-get install nginx-light")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    configuration = Path(folder, "nginx.conf")
    configuration.write_text(NGINX.format(folder=folder, port=port))
    process = subprocess.Popen([nginx, "-c", str(configuration), "-e", f"{folder}/error.log"])
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return process, port
        except OSError:
            time.sleep(0.01)
    sys.exit(f"client.py: nginx ended: {Path(folder, 'error.log').read_text()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=100_000, help="per round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, uvloop {version('uvloop')}, httptools {version('httptools')}, "
        f"{CONCURRENT} connections, {options.rounds} rounds of {options.requests:,} requests; medians"
    )
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        nginx, port = start_nginx(folder)
        try:
            for _ in range(options.rounds):
                for loop in LOOPS:
                    for name, load in LOADS.items():
                        found.setdefault((loop, name), []).append(measure(load, loop, port, options.requests))
        finally:
            nginx.terminate()
            nginx.wait()
    print(f"{'loop':9}{'load':17}{'requests/s':>12}{'of bare':>10}{'CPU us/request':>16}")
    for (loop, name), rounds in found.items():
        rate = statistics.median(rate for rate, _ in rounds)
        of_bare = rate / statistics.median(rate for rate, _ in found[loop, "bare protocol"])
        cpu = statistics.median(cpu for _, cpu in rounds)
        print(f"{loop:9}{name:17}{rate:12,.0f}{of_bare:10.0%}{cpu:16.1f}")


if __name__ == "__main__":
    main()
