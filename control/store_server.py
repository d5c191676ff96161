"""How a Redis is named, and what is said when it cannot be used. Pure: no Redis here.

A URL names one server, a service that Sentinels watch, or a Cluster.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

REMEDY = "write redis://, rediss:// or unix:// and an address, such as redis://127.0.0.1:6379/0"

_SINGLE = ("redis", "rediss", "unix")
_KINDS = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True)
class Target:
    """Where Redis is: `plain` is a URL that redis-py reads, for the first host and with all options."""

    kind: str  # "single", "sentinel" or "cluster"
    plain: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""


def hide_password(url: str) -> str:
    """The URL with `***` for every password in it, however badly it is written."""
    shown = re.sub(r"(://[^:/?#@[]*:)(?!\d{1,5}(?:[/?#,]|$)).*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][a-z_]*password=)[^&#]*", r"\1***", shown)


def parse_target(url: str) -> Target:
    """Raises ValueError with one sentence."""
    scheme, separator, rest = url.partition("://")
    security, plus, kind = scheme.partition("+")
    if not separator or security not in _SINGLE or (plus and (security == "unix" or kind not in _KINDS)):
        raise ValueError(REMEDY)
    if not plus:
        try:
            parts = urlsplit(url)
        except ValueError:
            # Its own words may quote the password.
            raise ValueError(REMEDY) from None
        if security == "unix":
            if not parts.path:
                raise ValueError("write unix:// and the path of the socket, such as unix:///run/redis.sock")
            return Target("single", url)
        if not parts.hostname:
            raise ValueError(REMEDY)
        if not re.fullmatch(r"/?|/\d+", parts.path):
            raise ValueError("after the address stands the number of the database, such as /0")
        _port(parts.netloc.rpartition("@")[2], 6379)
        return Target("single", url)
    authority, mark, tail = re.fullmatch(r"([^/?#]*)([/?#]?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    user, at, listed = authority.rpartition("@")
    hosts = tuple(_port(host, _KINDS[kind]) for host in listed.split(",") if host)
    if not hosts:
        raise ValueError(f"name at least one {kind} as host:port")
    path, _, query = (mark + tail).partition("?")
    words = [word for word in path.split("/") if word]
    if kind == "sentinel" and not words:
        raise ValueError("name the service that the sentinels watch: redis+sentinel://HOST:PORT/SERVICE")
    service = words.pop(0) if kind == "sentinel" else ""
    if len(words) > 1 or any(not word.isdigit() for word in words):
        raise ValueError("after the addresses stands the number of the database, such as /0")
    first, port = hosts[0]
    shown = f"[{first}]" if ":" in first else first
    plain = f"{security}://{user}{at}{shown}:{port}/{''.join(words)}" + (f"?{query}" if query else "")
    return Target(kind, plain, hosts, service)


def host_of(url: str) -> tuple[str, int] | None:
    """The host and port that the URL names, of several the first; None for a socket in the file system."""
    target = parse_target(url)
    if target.hosts:
        return target.hosts[0]
    parts = urlsplit(target.plain)
    return (parts.hostname, parts.port or 6379) if parts.hostname else None


TLS_FILES = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}


def with_tls_files(url: str, files: Mapping[str, str]) -> str:
    """The URL with these files in it, as redis-py names them; what it names itself stays.

    files: of TLS_FILES' names those that are given, `cert` and `key` being the client's. Raises ValueError with one
    sentence for files without TLS.
    """
    given = {TLS_FILES[name]: file for name, file in files.items() if file}
    if not given:
        return url
    if not url.startswith("rediss"):
        raise ValueError("certificates are for a Redis with TLS: write rediss://")
    if "ssl_keyfile" in given and "ssl_certfile" not in given and "ssl_certfile=" not in url:
        raise ValueError("a client's key needs its certificate, too")
    new = [f"{name}={quote(file)}" for name, file in given.items() if f"{name}=" not in url]
    return f"{url}{'&' if '?' in url else '?'}{'&'.join(new)}" if new else url


def _port(address: str, default: int) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]+)(?::(\d{1,5}))?", address)
    if not found or not 0 < int(found[2] or default) <= 65535:
        raise ValueError("an address is host:port, such as 127.0.0.1:6379")
    return found[1].strip("[]"), int(found[2] or default)


_REACH = "start one or name another with --redis URL (MITMESH_REDIS)"
_RIGHTS = "docs/security.md lists the rights that it needs"
_ANSWERS = (
    # what the server says (of any version), what it means, what to do
    (
        r"Authentication required",
        "it wants a password",
        "put it into the URL: redis://USER:PASSWORD@HOST:PORT",
    ),
    (r"invalid username-password", "wrong user or password", "correct it in the URL"),
    (r"without any password configured", "a password was given, but it has none", "take it out of the URL"),
    (r"no permissions to run the '?([^ ']+)", "this user may not run {0}", _RIGHTS),
    (r"can't run this command", "this user may not run a command of the script", _RIGHTS),
    (
        r"access a channel|the channels? (?:used|mentioned)",
        "this user may not use the channel {changes}",
        _RIGHTS,
    ),
    (r"access a key|of the keys (?:used|mentioned)", "this user may not use the keys {keys}", _RIGHTS),
    (r"is loading the dataset", "it is still loading its data", "try again in a moment"),
    (
        r"read only replica|is now a slave",
        "it is a read-only replica",
        "name the primary, or use redis+sentinel://",
    ),
    (r"MASTER is down", "it is a replica without its primary", "name the primary, or use redis+sentinel://"),
    (r"maxmemory", "its memory is full", "raise its maxmemory or remove other data"),
    (r"MISCONF|unable to persist", "it cannot write to its disk and so takes no change", "see its log"),
    (
        r"NOREPLICAS|enough good replicas",
        "too few of its replicas are there, so it takes no change",
        "see its log",
    ),
    (
        r"CLUSTERDOWN|not covered|no slot is covered|slot not served",
        "the cluster does not serve all slots",
        "repair the cluster",
    ),
    (r"Cluster mode is not enabled", "it is no cluster", "write redis:// in place of redis+cluster://"),
    (r"^\d+ \S+:\d+\b", "it is part of a cluster", "write redis+cluster:// in place of redis://"),
    (r"WRONGTYPE", "one of the keys {keys} is of another type than mitmesh writes", "delete it"),
    (r"BUSY", "a script of someone else keeps it busy", "wait, or end that with SCRIPT KILL"),
    (r"DB index|invalid DB", "it has no database of this number", "correct the number at the end of the URL"),
)


def describe(error: BaseException, shown: str, mesh: str, answered: bool = False) -> str:
    """One line on why the Redis at the URL `shown` cannot be used; answered: it is Redis itself that says so."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    text = " ".join(" ".join(str(link).split()) for link in chain)
    for pattern, what, remedy in _ANSWERS:
        if found := re.search(pattern, text):
            said = what.format(*found.groups(), changes=f"{{{mesh}}}:changes", keys=f"{{{mesh}}}:*")
            return f"cannot use Redis at {shown}: {said}; {remedy}"
    if answered:
        return f"cannot use Redis at {shown}: {_reason(chain, text)}; docs/redis.md says what it needs"
    return f"cannot reach Redis at {shown}: {_reason(chain, text)}; {_REACH}"


def _reason(chain: list[BaseException], text: str) -> str:
    if found := re.search(r"No master found for '([^']*)'", text):
        return f"the sentinels know no primary named {found[1]}, or cannot be reached"
    for link in chain:
        if isinstance(link, ssl.SSLError):
            return f"TLS failed: {getattr(link, 'verify_message', '') or link.reason or link}"
    for link in chain:
        if isinstance(link, OSError) and link.errno and link.strerror and "call failed" not in link.strerror:
            return link.strerror[0].lower() + link.strerror[1:]
    if found := re.search(r"\[Errno (\d+)\]|Error (\d+) connecting", text):
        said = os.strerror(int(found[1] or found[2]))
        return said[0].lower() + said[1:]
    if "Timeout connecting" in text:
        return "no connection in time"
    if "Timeout" in text:
        return "no answer in time"
    if "closed" in text:
        return "it closed the connection"
    return " ".join(str(chain[0]).split()) or type(chain[0]).__name__
