"""Certificates of short life, and a new root, under load: no request may fail.

Run from the project's root: python -m benchmarks.renewal

An outbound and an inbound `mitmesh proxy` with `mtls: strict` between them, certificates from `mitmesh ca serve`, an
authority whose root is rotated when a third of the time is over. Half of the clients keep their connection for the whole
time, half open one for each request. Beside them a foreign client keeps one connection by mutual TLS to the inbound port.
"""

import argparse
import asyncio
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import Broken, Program, Programs, free_port
from control.demo.story import valkey_server

ROOT = Path(__file__).resolve().parent.parent
ANYWHERE: frozenset[int] = frozenset()
PAUSE = 0.01
"""Seconds between the requests of a client: this is about failures, not about speed."""


@dataclass
class Tally:
    """What the clients have seen."""

    requests: int = 0
    connections: int = 0
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        self.failures.append(f"{time.strftime('%H:%M:%S')} {what}")


@dataclass
class Stage:
    """What runs: everything that `mitmesh` is told goes to this Redis and this authority."""

    programs: Programs
    redis: str
    folder: Path

    def mitmesh(self, name: str, *words: object, environment: dict[str, str] | None = None) -> Program:
        command = [sys.executable, "-m", "control", *words]
        return self.programs.start(
            name,
            command,
            ANYWHERE,
            {"MITMESH_REDIS": self.redis, "PYTHONPATH": str(ROOT), **(environment or {})},
        )

    def run(self, *words: object) -> str:
        """What a command says, to its last line break. Raises Broken when it fails."""
        program = self.mitmesh("-".join(str(word) for word in words[:2]), *words)
        if program.process.wait(60):
            raise Broken(f"mitmesh {' '.join(map(str, words))}: {program.last_line()}")
        return program.log.read_text().strip()

    @property
    def authority(self) -> tuple[str, str]:
        return "--dir", str(self.folder / "ca")


@dataclass(frozen=True)
class Pair:
    """Ports of the outbound and the inbound proxy, and the logs of both and of the authority."""

    outbound: int
    inbound: int
    logs: tuple[Program, ...]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.renewal", description=__doc__)
    parser.add_argument("--seconds", type=int, default=180, help="default 180")
    parser.add_argument("--lifetime", default="20s", help="of a certificate; default 20s")
    parser.add_argument("--clients", type=int, default=8, help="default 8")
    parser.add_argument("--no-rotation", action="store_true", help="leave the root as it is")
    return parser.parse_args()


async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says who called."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = [
                line for line in head.split(b"\r\n") if line.lower().startswith(b"x-forwarded-client-cert:")
            ]
            body = lines[0].partition(b";URI=")[2] if lines else b"nobody"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
    except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
        writer.close()


def start(stage: Stage, application_port: int, lifetime: str) -> Pair:
    """The authority, then both proxies with a token each; returns when both have a certificate and the policy."""
    stage.run("ca", "init", *stage.authority)
    serving = stage.mitmesh("ca serve", "ca", "serve", "--lifetime", lifetime, *stage.authority)
    outbound, inbound = free_port(), free_port()
    policy = stage.folder / "policy.json"
    policy.write_text(f'{{"service": "shop", "mtls": "strict", "endpoints": ["127.0.0.1:{inbound}"]}}')
    stage.run("apply", "-f", policy)
    tokens = {name: stage.run("token", name, *stage.authority) for name in ("web", "shop")}
    listens = {
        "web": ["--outbound", outbound],
        "shop": ["--inbound", f"{inbound}:127.0.0.1:{application_port}"],
    }
    proxies = [
        stage.mitmesh(
            f"proxy {name}",
            *(
                "proxy",
                "--service",
                name,
                *listens[name],
                "--access-log",
                stage.folder / f"{name}.access",
                "--set",
                "termlog_verbosity=info",
            ),
            environment={"MITMESH_TOKEN": tokens[name]},
        )
        for name in ("web", "shop")
    ]
    for proxy, port in zip(proxies, (outbound, inbound), strict=True):
        proxy.listening(port)
        end = time.monotonic() + 30
        while "a certificate of" not in proxy.log.read_text(errors="replace"):
            if proxy.ended or time.monotonic() > end:
                raise Broken(f"{proxy.name} has no certificate: {proxy.last_line()}")
            time.sleep(0.1)
    return Pair(outbound, inbound, (*proxies, serving))


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tally: Tally, who: str) -> None:
    writer.write(b"GET http://shop/ HTTP/1.1\r\nHost: shop\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    tally.requests += 1
    said = head.splitlines()[0].decode()
    if " 200 " not in said or body != b"spiffe://mesh/service/web":
        tally.fail(f"{who}: {said}: {body.decode(errors='replace').strip()}")


async def client(
    open_one: Callable[[], "asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]"],
    keeps: bool,
    tally: Tally,
    end: float,
    who: str,
) -> None:
    """Asks until `end`. A connection that ends is a failure; it then goes on with another."""
    writer: asyncio.StreamWriter | None = None
    while time.monotonic() < end:
        try:
            if writer is None:
                reader, writer = await open_one()
                tally.connections += 1
            await asyncio.wait_for(ask(reader, writer, tally, who), 10)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            tally.fail(f"{who}: {error!r}")
            keeps = keeps and writer is None
            if writer is not None:
                writer.close()
                writer = None
        if not keeps and writer is not None:
            writer.close()
            writer = None
        await asyncio.sleep(PAUSE)


async def load(pair: Pair, stage: Stage, chosen: argparse.Namespace, tally: Tally, foreign: Tally) -> None:
    end = time.monotonic() + chosen.seconds

    async def plain():
        return await asyncio.open_connection("127.0.0.1", pair.outbound)

    folder = stage.folder / "foreign"
    await asyncio.to_thread(stage.run, "cert", "issue", "web", "--out", folder, *stage.authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(folder / "bundle.pem")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    async def secure():
        return await asyncio.open_connection("127.0.0.1", pair.inbound, ssl=context)

    clients = [
        client(plain, number % 2 == 0, tally, end, "keeps" if number % 2 == 0 else "opens")
        for number in range(chosen.clients)
    ]
    rotation = [] if chosen.no_rotation else [rotate(stage, chosen.seconds / 3)]
    await asyncio.gather(
        *clients, client(secure, True, foreign, end, "foreign"), *rotation, progress(tally, foreign, end)
    )


async def rotate(stage: Stage, after: float) -> None:
    await asyncio.sleep(after)
    print(
        "\nrotating the root:",
        await asyncio.to_thread(stage.run, "ca", "rotate", *stage.authority),
        flush=True,
    )


async def progress(tally: Tally, foreign: Tally, end: float) -> None:
    while (left := end - time.monotonic()) > 0:
        failed = len(tally.failures) + len(foreign.failures)
        print(f"\r{left:4.0f} s left, {tally.requests} requests, {failed} failed ", end="", flush=True)
        await asyncio.sleep(min(1.0, left))
    print()


async def measure(stage: Stage, chosen: argparse.Namespace) -> tuple[Pair, Tally, Tally]:
    server = await asyncio.start_server(application, "127.0.0.1", 0)
    tally, foreign = Tally(), Tally()
    async with server:
        port = server.sockets[0].getsockname()[1]
        pair = await asyncio.to_thread(start, stage, port, chosen.lifetime)
        await load(pair, stage, chosen, tally, foreign)
    return pair, tally, foreign


def main() -> int:
    chosen = arguments()
    try:
        with tempfile.TemporaryDirectory() as name, Programs(Path(name)) as programs:
            port = free_port()
            server = [valkey_server(), "--port", port, "--bind", "127.0.0.1", "--save", ""]
            programs.start("valkey", server, ANYWHERE).listening(port)
            stage = Stage(programs, f"redis://127.0.0.1:{port}/0", Path(name))
            pair, tally, foreign = asyncio.run(measure(stage, chosen))
            status = "" if chosen.no_rotation else stage.run("ca", "status")
            issued = {who: pair.logs[-1].log.read_text().count(f"issued: {who} ") for who in ("web", "shop")}
            complaints = [
                line
                for program in pair.logs
                for line in program.log.read_text().splitlines()
                if "refused" in line
            ]
    except Broken as broken:
        sys.exit(f"benchmarks: {broken}")
    except KeyboardInterrupt:
        return 130
    print(
        f"certificates of {chosen.lifetime} over {chosen.seconds} s: web had {issued['web']}, shop {issued['shop']}"
    )
    print(f"{tally.requests} requests over {tally.connections} connections, {len(tally.failures)} failed")
    print(
        f"{foreign.requests} requests of a foreign client over {foreign.connections} connection, {len(foreign.failures)} failed"
    )
    for line in [*tally.failures[:20], *foreign.failures[:5], *complaints[:10], status]:
        if line:
            print(line)
    return 1 if tally.failures or foreign.failures else 0


if __name__ == "__main__":
    sys.exit(main())
