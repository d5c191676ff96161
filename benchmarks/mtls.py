"""Mutual TLS: a pair of the mesh's proxies, outbound and inbound, beside a pair of Envoys, each with certificates of both sides.

The load goes in plainly at the outbound proxy; between the two is TLS 1.3, of which the application knows nothing. New
connections are made by a client that speaks TLS itself, to the inbound proxy, with a full handshake for each request.
"""

import asyncio
import json
import shlex
import ssl
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import envoy_proxy, policies
from benchmarks.load import Door
from benchmarks.part import Part
from benchmarks.processes import Broken, Program, free_port
from benchmarks.rounds import Course, Row
from benchmarks.targets import Bench, Target
from benchmarks.upstream import SMALL
from control.identity.authority import Authority
from control.identity.names import spiffe_id

MESH = "mtls"
SERVICE, CALLER = "shop", "web"
CONNECTIONS = (1, 32)
CLIENTS = 8
"""That open new connections side by side."""
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


@dataclass(frozen=True)
class Pair:
    """Two proxies one behind the other. secure: the inbound one's port, 0 in a pair without TLS, which shows what that costs."""

    target: Target
    secure: int = 0


def run(bench: Bench, course: Course) -> Part:
    """Raises Broken."""
    folder = bench.folder / "identities"
    authority = Authority.create(folder / "ca", MESH)
    for service in (SERVICE, CALLER):
        authority.issue(service).write(folder / service)
    pairs = [
        _envoys(bench, folder, True),
        _meshes(bench, folder, True),
        _envoys(bench, folder, False),
        _meshes(bench, folder, False),
    ]
    rows = [Row(pair.target, SMALL, connections) for connections in CONNECTIONS for pair in pairs]
    course.run(rows)
    fresh = _new_connections(course, [pair for pair in pairs if pair.secure], folder)
    for pair in pairs:
        assert pair.target.program is not None
        bench.programs.stop(pair.target.program)
    return Part(
        "Mutual TLS between an outbound and an inbound proxy",
        "8 B, keep-alive, both proxies of a pair on one core; ratio: to Envoy's pair of the same kind."
        " New connections: a full TLS 1.3 handshake with both certificates and one request, to the inbound proxy alone.",
        _table(rows, pairs, fresh),
        [*(row.data() for row in rows), *({"target": key, "new": rates} for key, rates in fresh.items())],
    )


def _table(rows: list[Row], pairs: list[Pair], fresh: dict[str, list[float]]) -> str:
    lines = [
        f"{'':34}{'requests/s':>12}{'ratio':>8}{'p50 ms':>9}{'p99 ms':>9}{'CPU s/1,000':>13}{'ratio':>8}"
    ]
    for row in rows:
        base = next(each for each in rows if each.connections == row.connections and _rivals(each, row))
        rate, p50, p99, cpu = (row.median(what) or 0.0 for what in ("rate", "p50", "p99", "cpu"))
        name = f"{row.target.shown}, {row.connections}"
        trouble = f"  {row.trouble}" if row.trouble else ""
        ratio, cost = (row.ratio(what, base) or 0.0 for what in ("rate", "cpu"))
        times = f"{p50 * 1e3:>9.2f}{p99 * 1e3:>9.2f}{cpu:>13.4f}{cost:>8.2f}"
        lines.append(f"{name:34}{rate:>12,.0f}{ratio:>8.2f}{times}{trouble}")
    lines.append("")
    lines.append(f"{'new connections':34}{'a second':>12}{'ratio':>8}")
    base_rates = fresh[pairs[0].target.key]
    for pair in pairs:
        if pair.secure:
            rates = fresh[pair.target.key]
            ratio = statistics.median(mine / base for mine, base in zip(rates, base_rates, strict=True))
            lines.append(f"{pair.target.shown:34}{statistics.median(rates):>12,.0f}{ratio:>8.2f}")
    return "\n".join(lines)


def _rivals(envoy: Row, row: Row) -> bool:
    """Whether the one is Envoy's pair of the other's kind."""
    kind = row.target.key.partition(" ")[2]
    return envoy.target.key == f"envoy {kind}"


def _both(bench: Bench, name: str, commands: Sequence[Sequence[object]]) -> Program:
    """As the children of one program, so that what they use is counted together."""
    each = [shlex.join(str(word) for word in command) for command in commands]
    return bench.programs.start(name, ["sh", "-c", " & ".join([*each, "wait"])], bench.cores.proxy)


# The mesh's


def _meshes(bench: Bench, folder: Path, secure: bool) -> Pair:
    kind = "mtls" if secure else "plain"
    mesh = MESH if secure else f"{MESH}-plain"
    inbound = free_port()
    policy = {**policies.full(inbound), **policies.endpoints(SERVICE, inbound), "hosts": []}
    policies.apply(bench.redis, mesh, [{**policy, "mtls": "strict"} if secure else policy])
    log = bench.folder / f"mesh-{kind}-access.log"
    outbound = free_port()
    modes = {CALLER: f"regular@{outbound}", SERVICE: f"reverse:http://{bench.upstream}@{inbound}"}
    commands = []
    for service in (SERVICE, CALLER):
        options = {
            "confdir": bench.folder / "confdir",
            "termlog_verbosity": "warn",
            "mesh_redis": bench.redis,
            "mesh_name": mesh,
            "mesh_service": service,
            "mesh_access_log": log if service == CALLER else bench.folder / f"mesh-{kind}-inbound.log",
            **({"mesh_inbound": inbound} if service == SERVICE else {}),
            **({"mesh_identity": folder / service} if secure else {}),
        }
        command = [sys.executable, "-P", bench.checkout / "addons/lean_proxy.py", "--mode", modes[service]]
        command += ["--listen-host", "127.0.0.1"]
        for option, value in options.items():
            command += ["--set", f"{option}={value}"]
        commands.append(command)
    program = _both(bench, f"mitmesh pair {kind}", commands).listening(inbound).listening(outbound)
    door = Door(outbound, (SERVICE,), absolute=True)
    shown = f"mitmesh and mitmesh, {'mTLS' if secure else 'plain'}"
    return Pair(Target(f"mitmesh {kind}", shown, door, program, log), inbound if secure else 0)


# Envoy's


def _envoys(bench: Bench, folder: Path, secure: bool) -> Pair:
    kind = "mtls" if secure else "plain"
    outbound, inbound = free_port(), free_port()
    commands = []
    log = bench.folder / f"envoy-{kind}-access.log"
    for service, port, upstream in ((SERVICE, inbound, bench.port), (CALLER, outbound, inbound)):
        written = log if service == CALLER else bench.folder / f"envoy-{kind}-inbound.log"
        found = json.loads(envoy_proxy.configuration(port, upstream, written))
        if service == SERVICE:
            # As the mesh's inbound proxy: on to the application, once.
            (manager,) = found["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
            (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
            host["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": "v1", "timeout": "60s"}}]
        if secure:
            _secure(found["static_resources"], service, folder)
        file = bench.folder / f"envoy-{kind}-{service}.json"
        file.write_text(json.dumps(found, indent=1))
        command = [envoy_proxy.binary(), "-c", file, "--concurrency", "1", "--log-level", "warn"]
        commands.append([*command, "--disable-hot-restart"])
    program = _both(bench, f"Envoy pair {kind}", commands).listening(inbound).listening(outbound)
    shown = f"Envoy and Envoy, {'mTLS' if secure else 'plain'}"
    target = Target(f"envoy {kind}", shown, Door(outbound, (SERVICE,)), program, log)
    return Pair(target, inbound if secure else 0)


def _secure(resources: dict[str, Any], service: str, folder: Path) -> None:
    """Its own certificate, the other's chain and SPIFFE ID verified, and the caller told as the mesh's proxies tell it."""
    own = folder / service
    other = CALLER if service == SERVICE else SERVICE
    names = [{"san_type": "URI", "matcher": {"exact": spiffe_id(MESH, other)}}]
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(own / "cert.pem")},
                "private_key": {"filename": str(own / "key.pem")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(own / "bundle.pem")},
            "match_typed_subject_alt_names": names,
        },
        "alpn_protocols": ["http/1.1"],
    }
    if service == SERVICE:
        (chain,) = resources["listeners"][0]["filter_chains"]
        context = {"@type": f"{_TLS}.DownstreamTlsContext", "require_client_certificate": True}
        chain["transport_socket"] = {"name": "tls", "typed_config": {**context, "common_tls_context": common}}
        manager = chain["filters"][0]["typed_config"]
        manager["forward_client_cert_details"] = "SANITIZE_SET"
        manager["set_current_client_cert_details"] = {"uri": True}
    else:
        for cluster in resources["clusters"]:
            context = {"@type": f"{_TLS}.UpstreamTlsContext", "common_tls_context": common}
            cluster["transport_socket"] = {"name": "tls", "typed_config": context}


# New connections


def _new_connections(course: Course, pairs: list[Pair], folder: Path) -> dict[str, list[float]]:
    """Handshakes a second, by target, in interleaved rounds."""
    rates: dict[str, list[float]] = {pair.target.key: [] for pair in pairs}
    for _ in range(course.rounds):
        for pair in pairs:
            rates[pair.target.key].append(asyncio.run(_handshakes(pair.secure, folder, course.seconds)))
    return rates


async def _handshakes(port: int, folder: Path, seconds: int) -> float:
    own = folder / CALLER
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(own / "bundle.pem")
    context.load_cert_chain(own / "cert.pem", own / "key.pem")
    start = time.perf_counter()

    async def work() -> int:
        made = 0
        while time.perf_counter() - start < seconds:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(f"GET {SMALL.path} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise Broken(f"over a new connection: {head.decode(errors='replace').splitlines()[0]}")
            writer.transport.abort()
            made += 1
        return made

    made = sum(await asyncio.gather(*(work() for _ in range(CLIENTS))))
    return made / (time.perf_counter() - start)
