"""The command `mitmesh`: its subcommands, and how each way to end becomes an exit code.

Exit codes: 0 done, 1 refused or failed, 2 the command line was not understood,
130 Ctrl-C. Nothing slow is imported before a command needs it.
"""

import contextlib
import io
import os
import sys
from typing import Annotated

import typer

from control.commands import (
    apply,
    ca,
    canary,
    cert,
    convert,
    delete,
    demo,
    diff,
    explain,
    get,
    history,
    key,
    proxy,
    rollback,
    schema,
    status,
    token,
    top,
    validate,
    version,
    watch,
)
from control.commands.failure import Failed
from control.commands.options import Mesh, PolicyKey, Redis, RedisCa, RedisCert, RedisKey, Target
from control.commands.output import remark
from control.policy.errors import PolicyErrors

app = typer.Typer(
    help="A service mesh of mitmproxy addons: policy in Redis, in force within milliseconds.",
    no_args_is_help=True,
    # Plain help: it reads the same in a terminal, a file and docs/cli.md, and rich stays unloaded.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
# In the order of their use, as the help shows them.
app.command()(apply.apply)
app.command()(validate.validate)
app.command()(convert.convert)
app.command()(diff.diff)
app.command()(get.get)
app.command()(delete.delete)
app.command()(history.history)
app.command()(rollback.rollback)
app.command()(canary.canary)
app.command()(status.status)
app.command()(top.top)
app.command()(watch.watch)
app.command()(explain.explain)
app.command()(schema.schema)
app.command()(proxy.proxy)
app.add_typer(ca.app, name="ca")
app.add_typer(cert.app, name="cert")
app.command()(token.token)
app.add_typer(key.app, name="key")
app.command()(demo.demo)
app.command()(version.version)


def _version(wanted: bool) -> None:
    if wanted:
        version.version()
        raise typer.Exit


@app.callback()
def before(
    context: typer.Context,
    redis: Redis = None,
    mesh: Mesh = None,
    redis_ca: RedisCa = None,
    redis_cert: RedisCert = None,
    redis_key: RedisKey = None,
    policy_key: PolicyKey = None,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="as the command `version`")
    ] = False,
) -> None:
    files = {"ca": redis_ca, "cert": redis_cert, "key": redis_key}
    context.obj = Target(redis, mesh, policy_key, {name: file for name, file in files.items() if file})


def main(argv: list[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character shows its escape, as stderr does anyway.
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if argv is None else argv
    if arguments == ["version"]:
        # Typer reads an option's value through pydantic, whose import takes as long as all the rest.
        arguments = ["--version"]
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone, as in `| head`: quietly.
        code = 1
        _forget_output()
    except OSError as error:
        code = 1
        _forget_output()
        remark(f"error: {error}", "red")
    return code


def _forget_output() -> None:
    """What stdout could not take must not fail again when Python flushes it at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    try:
        app(args=arguments, prog_name="mitmesh")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Failed as failure:
        for line in failure.lines:
            remark(line, "red")
        return failure.code
    except PolicyErrors as errors:
        for problem in errors.problems:
            remark(str(problem), "red")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
