"""mitmesh demo: the mesh at work on this machine."""

from typing import Annotated

import typer

from control.commands.failure import Failed
from control.commands.options import Json, Redis, target_of


def demo(
    context: typer.Context,
    keep: Annotated[
        bool, typer.Option("--keep", help="leave it running and say what to try, until Ctrl-C")
    ] = False,
    proxy_port: Annotated[int, typer.Option(metavar="PORT", help="where the proxy listens")] = 3000,
    server_port: Annotated[int, typer.Option(metavar="PORT", help="where the flaky server listens")] = 3001,
    requests: Annotated[int, typer.Option(metavar="N", help="requests sent with each policy")] = 200,
    as_json: Json = False,
    redis: Redis = None,
) -> None:
    """Show the mesh at work on this machine.

    A server that fails nine times of ten becomes reliable, live, with 1, 3, 10
    and 50 tries. Starts a Valkey server, the flaky server and a proxy, and ends them again.
    Only a Redis named by --redis is used instead, never one of the environment.
    """
    from control.demo import run

    code = run(
        target_of(context, redis, None).given_redis,
        keep=keep,
        proxy_port=proxy_port,
        server_port=server_port,
        requests=requests,
        as_json=as_json,
    )
    if code:
        raise Failed(code=code)
