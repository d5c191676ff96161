"""mitmesh proxy: mitmdump with the mesh, by shorter words."""

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

# stdout belongs to the access log; what goes wrong is told on stderr. A script of the
# caller's working directory must not shadow a module, hence -P.
_MITMDUMP = (
    'import functools, sys; sys.argv[0] = "mitmdump"; from mitmproxy.addons import termlog; from mitmproxy.tools.main import mitmdump; '
    "termlog.TermLog = functools.partial(termlog.TermLog, sys.stderr); mitmdump()"
)
_PYTHON = ("-P", "-c", _MITMDUMP)
_QUIET = ("termlog_verbosity=warn", "flow_detail=0")

Many = list[str] | None


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
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="OPTION", help="after `--`: any other option of mitmdump"),
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="print the command that would run, and end")] = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Run a proxy of the mesh.

    This process becomes mitmdump of the same Python with the mesh's addons. Its console stays quiet but for warnings
    and errors, which go to stderr; `--set termlog_verbosity=info` says more.
    """
    target = target_of(context, redis, mesh)
    if not (outbound or inbound or mode):
        raise usage(
            "say where to listen: --outbound PORT for what the application calls,"
            " --inbound PORT:HOST:PORT for what calls it, or --mode as mitmdump's"
        )
    sets = _own_sets(
        {
            "mesh_redis": target.given_redis,
            "mesh_name": target.given_mesh and target.mesh,
            "mesh_service": service,
            "mesh_node": node,
            "mesh_cache": cache,
            "mesh_access_log": access_log,
        }
    )
    modes = [f"regular@{_port('--outbound', port)}" for port in outbound or ()]
    for text in inbound or ():
        listen, address = _inbound(text)
        modes.append(f"reverse:http://{address}@{listen}")
        sets.append(f"mesh_inbound={listen}")
    given = {option.partition("=")[0] for option in options or ()}
    sets += [option for option in _QUIET if option.partition("=")[0] not in given]
    if twice := sorted({option.partition("=")[0] for option in sets} & given - {"mesh_inbound"}):
        raise usage(f"--set {twice[0]}: given twice, as an option of its own, too")
    arguments = [
        *(part for each in [*modes, *(mode or ())] for part in ("--mode", each)),
        *(("--listen-host", listen_host) if listen_host else ()),
        *(("--listen-port", listen_port) if listen_port else ()),
        *(part for each in scripts or () for part in ("-s", each)),
        *("-s", str(mesh_script())),
        *(part for each in [*sets, *(options or ())] for part in ("--set", each)),
        *(more or ()),
    ]
    command = [sys.executable, *_PYTHON, *arguments]
    if show:
        say(shlex.join(command))
    else:
        _become(command)


def _own_sets(values: dict[str, str | None]) -> list[str]:
    """Only what was said: the rest mitmdump's configuration and the environment may say."""
    return [
        f"{name}={value}"
        for name, value in values.items()
        if value or (value is not None and name == "mesh_access_log")
    ]


def _port(option: str, text: str) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and 1 <= int(text) <= 65535:
        return int(text)
    raise usage(f"{option}: write a port from 1 to 65535, such as 15001, got {text!r}")


def _inbound(text: str) -> tuple[int, str]:
    """`15006:127.0.0.1:8000` -> (15006, "127.0.0.1:8000"); an IPv6 address in brackets."""
    listen, _, address = text.partition(":")
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+", host):
        raise usage(f"--inbound: write PORT:HOST:PORT, such as 15006:127.0.0.1:8000, got {text!r}")
    return _port("--inbound", listen), f"{host}:{_port('--inbound', port)}"


def mesh_script() -> Path:
    """Where addons/mesh.py is, in a checkout or installed, found without running any of it."""
    from importlib.util import find_spec

    found = find_spec("addons")
    for folder in (found and found.submodule_search_locations) or ():
        if (script := Path(folder) / "mesh.py").is_file():
            return script
    raise Failed("error: the addons of the mesh are not installed beside this command; install mitmesh again")


def _become(command: list[str]) -> None:
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
