"""Where a request points after a rewrite, and where a redirect sends its caller. Pure.

The replacement of a prefix is Gateway API's (HTTPPathModifier, ReplacePrefixMatch): whole segments, a slash at the end of
either prefix counts for nothing, and of a path that is gone `/` remains.
"""

from dataclasses import dataclass
from random import Random
from urllib.parse import quote

from control.policy.facts import RequestFacts
from control.policy.matching import All, AnyOf, Condition, PathPrefix
from control.policy.redirects import Redirect, Rewrite

_PORTS = {"http": 80, "https": 443}
# What a URL may hold as it is; anything else is escaped.
_SAFE = "/!$&'()*+,;=:@%?~-._[]"


class _Always(Random):
    """Chance that lets every share above 0 hold."""

    def random(self) -> float:
        return 0.0


_ALWAYS = _Always(0)


@dataclass(frozen=True, slots=True)
class NewPath:
    """A path in place of the request's: `whole`, or `start` in place of the prefix that `conditions` matched."""

    whole: str | None
    query: str | None
    """In place of the request's query; None: that stays."""
    start: str
    conditions: Condition | None

    def target(self, facts: RequestFacts) -> str:
        """The new path with its query, in ASCII. A prefix is replaced in the path as it was matched, which is normalized."""
        path = self.whole
        if path is None:
            path = self.start + facts.path[_matched(self.conditions, facts) :] or "/"
        query = facts.target.partition("?")[2] if self.query is None else self.query
        has_query = bool(query) or (self.query is None and "?" in facts.target)
        return f"{path}?{query}" if has_query else path


@dataclass(frozen=True, slots=True)
class CompiledRewrite:
    """`path` None: the target stays as it is; `host` None: the Host header does."""

    source: Rewrite
    path: NewPath | None
    host: str | None


@dataclass(frozen=True, slots=True)
class CompiledRedirect:
    source: Redirect
    status: int
    path: NewPath | None

    def location(self, facts: RequestFacts, scheme: str, *, host_known: bool = True) -> str:
        """Where to go; `scheme` is the request's own. host_known: False where nobody knows what host the caller named.

        A port that is the scheme's own is left out, as Gateway API says; a request without one in its URL has it, so with
        another scheme it has that one's.
        """
        source = self.source
        path = facts.target if self.path is None else self.path.target(facts)
        if path == "*":
            path = "/"
        named = source.scheme is not None or source.host is not None or source.port is not None
        if not host_known and not named and not path.startswith("//"):
            return path
        new = source.scheme or scheme
        port: int | None = source.port
        if port is None and facts.port != _PORTS.get(scheme):
            port = facts.port
        host = source.host or (f"[{facts.host}]" if ":" in facts.host else facts.host)
        return f"{new}://{host}{'' if port is None or port == _PORTS[new] else f':{port}'}{path}"


def compile_rewrite(rewrite: Rewrite, conditions: Condition | None) -> CompiledRewrite:
    """`conditions` are those of the route that has it."""
    return CompiledRewrite(rewrite, _new_path(rewrite.path, rewrite.prefix, conditions), rewrite.host)


def compile_redirect(redirect: Redirect, conditions: Condition | None) -> CompiledRedirect:
    """`conditions` are those of the route that has it."""
    return CompiledRedirect(redirect, redirect.status, _new_path(redirect.path, redirect.prefix, conditions))


def _new_path(path: str | None, prefix: str | None, conditions: Condition | None) -> NewPath | None:
    if path is not None:
        whole, mark, query = path.partition("?")
        return NewPath(quote(whole, safe=_SAFE), quote(query, safe=_SAFE) if mark else None, "", None)
    if prefix is not None:
        return NewPath(None, None, quote(prefix.rstrip("/"), safe=_SAFE), conditions)
    return None


def _matched(condition: Condition | None, facts: RequestFacts) -> int:
    """How long the matched prefix is: that of the first alternative that holds. A random share counts as won."""
    if isinstance(condition, PathPrefix):
        return len(condition.prefix)
    if isinstance(condition, All):
        return next((len(c.prefix) for c in condition.conditions if isinstance(c, PathPrefix)), 0)
    if isinstance(condition, AnyOf):
        for alternative in condition.alternatives:
            if alternative.holds(facts, _ALWAYS):
                return _matched(alternative, facts)
    return 0
