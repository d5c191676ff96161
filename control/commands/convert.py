"""mitmesh convert: documents of Gateway API and Istio as policies."""

from typing import Annotated

import typer

from control.commands.failure import Failed, usage
from control.commands.options import Files
from control.commands.output import remark
from control.commands.reading import read_all


def convert(
    file: Files,
    lossy: Annotated[bool, typer.Option("--lossy", help="exit 0 also when something was left out")] = False,
    port: Annotated[
        int, typer.Option(metavar="PORT", help="the port of destinations for which none is said")
    ] = 80,
) -> None:
    """Turn documents of other meshes into policies, as YAML on stdout.

    Read are Gateway API's HTTPRoute and Istio's VirtualService, DestinationRule
    and ServiceEntry; policies of ours among them stay as they are. Each field
    that has no counterpart is named on stderr, and the exit code is then 1.
    `mitmesh apply` takes such documents as they are where nothing is lost.
    """
    from control.convert.converting import convert as converted
    from control.policy.checking import check
    from control.policy.errors import PolicyErrors
    from control.policy.reading import to_yaml

    if not 1 <= port <= 65535:
        raise usage(f"--port {port}: write a port from 1 to 65535")
    documents, foreign = read_all(file)
    found = converted(foreign, port)
    documents += found.documents
    for note in found.notes:
        remark(f"note: {note}")
    for lost in found.report.lost:
        remark(f"left out: {lost}", "yellow")
        typer.echo(f"# left out: {lost}")
    if documents:
        typer.echo(to_yaml(document.policy for document in documents), nl=False)
    if problems := check(documents):
        raise PolicyErrors(problems)
    if found.report.lost and not lossy:
        raise Failed("error: something was left out: see above; --lossy accepts that")
