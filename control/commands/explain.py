"""mitmesh explain: why a request would do what it would do."""

import re
import time
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from control.commands.failure import Failed, usage
from control.commands.options import Json, Mesh, Redis, target_of
from control.commands.output import say, say_json
from control.commands.reading import read_files

if TYPE_CHECKING:
    from control.policy.authorizing import Caller
    from control.policy.facts import RequestFacts
    from control.policy.snapshot import Snapshot
    from control.store import Store, Stored
    from control.store_registry import Registration

_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # RFC 9110, 5.6.2
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+", re.ASCII)
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def explain(
    context: typer.Context,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="such as GET")],
    url: Annotated[
        str, typer.Argument(metavar="URL", help="as the caller writes it, such as http://reviews/api")
    ],
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="a request header; repeatable"),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="SERVICE|SPIFFE", help="the calling service, or what its certificate says"
        ),
    ] = "",
    file: Annotated[
        list[str] | None,
        typer.Option("--file", "-f", metavar="FILE|-|DIR", help="this policy instead of Redis'"),
    ] = None,
    as_json: Json = False,
    redis: Redis = None,
    mesh: Mesh = None,
) -> None:
    """Say what would happen to a request, and why.

    That is: which document and route it meets, why not the earlier routes, where
    it goes with which share, which retry, timeout and faults apply, and whether
    the caller may send it, by which rule.
    Asks the very functions that the proxy asks. With -f it needs no Redis, which
    makes it a test of policy files.
    """
    from control.policy.errors import PolicyErrors
    from control.policy.explain import explain as explained

    target = target_of(context, redis, mesh)
    caller = caller_of(source, target.mesh)
    facts = facts_of(method, url, header or [], caller.service)
    if file:
        snapshot = _from_files(file)
    else:

        async def read(store: "Store") -> "tuple[Stored, dict[str, Registration]]":
            return await store.read(), await store.registrations()

        from control.policy.snapshot import build
        from control.store_registry import by_service

        stored, registrations = target.run(read)
        try:
            snapshot = build(
                stored.revision, stored.documents, now=time.time(), registered=by_service(registrations)
            )
        except PolicyErrors as errors:
            raise Failed(
                *(str(problem) for problem in errors.problems),
                f"error: proxies refuse revision {stored.revision} for this and keep the one before",
            ) from None
    explanation = explained(snapshot, facts, caller)
    if as_json:
        say_json(explanation.data())
    else:
        for line in explanation.lines():
            say(line)


def _from_files(files: list[str]) -> "Snapshot":
    from control.policy.checking import check
    from control.policy.errors import PolicyErrors
    from control.policy.expiring import stamped
    from control.policy.reading import normalize
    from control.policy.snapshot import build

    documents = read_files(files)
    if problems := check(documents):
        raise PolicyErrors(problems)
    now = time.time()
    # As if they were applied now.
    policies = [stamped(document.policy, None, now) for document in documents]
    return build(0, {policy.service: normalize(policy) for policy in policies}, now=now)


def caller_of(source: str, mesh: str) -> "Caller":
    """Who `--from` names: a service of the mesh, or any SPIFFE ID. Raises Failed (usage)."""
    from control.identity.names import parse_spiffe_id, spiffe_id
    from control.policy.authorizing import NOBODY, Caller

    if not source:
        return NOBODY
    if _SERVICE.fullmatch(source):
        return Caller(spiffe_id(mesh, source), source.lower())
    if not _SPIFFE.fullmatch(source):
        raise usage(
            f"--from: write the name of a service, such as web, or spiffe://MESH/service/NAME, got {source!r}"
        )
    try:
        domain, service = parse_spiffe_id(source)
    except ValueError:
        return Caller(source)
    return Caller(source, service if domain == mesh.lower() else "")


def facts_of(method: str, url: str, headers: list[str], source: str) -> "RequestFacts":
    """The request as matchers see it. Raises Failed (usage) for what is no request."""
    from control.policy.facts import RequestFacts

    if not _TOKEN.fullmatch(method):
        raise usage(f"METHOD: write a method, such as GET, got {method!r}")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise usage(f"URL: {error}, got {url!r}") from None
    if parts.scheme not in _PORTS or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise usage(f"URL: write it as the caller does, such as http://reviews/api?x=1, got {url!r}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = [(b"Host", parts.netloc.rpartition("@")[2].encode())]
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise usage(f"-H: write 'name: value', such as 'x-user: ann', got {header!r}")
        fields.append((name.encode(), value.strip().encode("utf-8", "surrogateescape")))
    if any(name.lower() == b"host" for name, _ in fields[1:]):
        del fields[0]
    return RequestFacts(
        method.upper(), host.lower(), port or _PORTS[parts.scheme], target, tuple(fields), source.lower()
    )
