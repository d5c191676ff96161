"""mitmesh proxy: becomes a proxy of the mesh."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from control.commands.failure import Failed, usage
from control.commands.options import Mesh, Redis, target_of
from control.commands.output import say
from control.policy.units import parse_duration

_QUIET = "termlog_verbosity=warn"


def proxy(
    context: typer.Context,
    outbound: Annotated[
        list[str] | None,
        typer.Option(metavar="PORT", help="for what the application calls: --mode regular@PORT"),
    ] = None,
    inbound: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PORT:HOST:PORT",
            help="in front of the application at HOST:PORT: --mode reverse:http://HOST:PORT@PORT, and PORT in mesh_inbound",
        ),
    ] = None,
    service: Annotated[
        str, typer.Option(metavar="NAME", help="who this proxy stands for: --set mesh_service=NAME")
    ] = "",
    node: Annotated[
        str, typer.Option(metavar="NAME", help="its name in `mitmesh status`: --set mesh_node=NAME")
    ] = "",
    cache: Annotated[
        str, typer.Option(metavar="FILE", help="keeps the last good policy: --set mesh_cache=FILE")
    ] = "",
    access_log: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="a line for each exchange: --set mesh_access_log=FILE"),
    ] = None,
    metrics_port: Annotated[
        str,
        typer.Option(
            metavar="PORT", help="/metrics, /healthz and /readyz there: --set mesh_metrics_port=PORT"
        ),
    ] = "",
    mode: Annotated[
        list[str] | None, typer.Option("--mode", metavar="MODE", help="as mitmdump's; repeatable")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="as mitmdump's; repeatable")
    ] = None,
    scripts: Annotated[
        list[str] | None,
        typer.Option(
            "--scripts", "-s", metavar="SCRIPT", help="an addon of your own, before the mesh's; repeatable"
        ),
    ] = None,
    listen_host: Annotated[str, typer.Option(metavar="HOST", help="as mitmdump's")] = "",
    listen_port: Annotated[
        str, typer.Option("--listen-port", "-p", metavar="PORT", help="as mitmdump's")
    ] = "",
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, max=256, help="processes that share the ports")
    ] = 1,
    drain: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="how long requests under way may take at a stop: --set mesh_drain=DURATION",
        ),
    ] = "",
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="OPTION", help="after `--`: any other option of mitmdump"),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="print the command that would run, and end")] = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Run a proxy of the mesh.

    This process becomes mitmproxy of the same Python, with the mesh's addons and
    no others but those of -s. Warnings and errors go to stderr;
    `--set termlog_verbosity=info` says more.
    """
    target = target_of(context, redis, mesh)
    own = {
        "mesh_redis": target.given_redis or "",
        **{f"mesh_redis_{name}": file for name, file in target.given_tls.items()},
        "mesh_name": target.mesh if target.given_mesh else "",
        "mesh_service": service,
        "mesh_node": node,
        "mesh_cache": cache,
        "mesh_drain": _duration("--drain", drain),
    }
    # Only what was said: the rest the environment and mitmproxy's configuration may say.
    sets = [f"{name}={value}" for name, value in own.items() if value]
    if access_log is not None:
        sets.append(f"mesh_access_log={access_log}")
    if metrics_port:
        sets.append(f"mesh_metrics_port={_port('--metrics-port', metrics_port)}")
    modes = [f"regular@{_port('--outbound', port)}" for port in outbound or ()]
    for text in inbound or ():
        listen, address = _inbound(text)
        modes.append(f"reverse:http://{address}@{listen}")
        sets.append(f"mesh_inbound={listen}")
    modes += mode or ()
    if not modes:
        raise usage(
            "say where to listen: --outbound PORT for what the application calls,"
            " --inbound PORT:HOST:PORT for what calls it, or --mode as mitmdump's"
        )
    given = {option.partition("=")[0] for option in options or ()}
    if twice := sorted({option.partition("=")[0] for option in sets} & given - {"mesh_inbound"}):
        raise usage(f"--set {twice[0]}: there is a short option for it on this command line already")
    if "termlog_verbosity" not in given:
        sets.append(_QUIET)
    command = [
        *(sys.executable, "-P", str(addon_file("lean_proxy.py"))),
        *(("--workers", str(workers)) if workers > 1 else ()),
        *_each("--mode", modes),
        *_each("--listen-host", [listen_host] if listen_host else []),
        *_each("--listen-port", [listen_port] if listen_port else []),
        *_each("-s", scripts or []),
        *_each("--set", [*sets, *(options or [])]),
        *(more or []),
    ]
    if show:
        say(shlex.join(command))
    else:
        _become(command)


def _each(option: str, values: list[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def _port(option: str, text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and 1 <= int(text) <= 65535:
        return int(text)
    raise usage(f"{option}: write a port from 1 to 65535, such as 15001, got {text!r}")


def _duration(option: str, text: str) -> str:
    try:
        if text:
            parse_duration(text)
    except ValueError as error:
        raise usage(f"{option}: {error}, got {text!r}") from None
    return text


def _inbound(text: str) -> tuple[int, str]:
    """`15006:127.0.0.1:8000` -> (15006, "127.0.0.1:8000"); an IPv6 address in brackets."""
    listen, _, address = text.partition(":")
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+", host):
        raise usage(f"--inbound: write PORT:HOST:PORT, such as 15006:127.0.0.1:8000, got {text!r}")
    return _port("--inbound", listen), f"{host}:{_port('--inbound', port)}"


def addon_file(name: str) -> Path:
    """A file of the data plane, which stands beside `control` in a checkout and installed; none of it is run."""
    file = Path(__file__).resolve().parents[2] / "addons" / name
    if not file.is_file():
        raise Failed(f"error: {file} is missing; install mitmesh again")
    return file


def _become(command: list[str]) -> None:
    """Run it in the place of this process; returns only on Windows, with its exit code in Failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if os.name == "nt":
            # execv of Windows returns to the shell at once and leaves the proxy behind.
            import subprocess

            raise Failed(code=subprocess.call(command))
        os.execv(command[0], command)
    except OSError as error:
        raise Failed(f"error: {command[0]} cannot be run: {error.strerror}") from None
