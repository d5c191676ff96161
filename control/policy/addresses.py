"""Hosts and ports as people write them, in their normal form."""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.){{0,126}}{_LABEL}\.?", re.ASCII)


def split_host_port(text: str) -> tuple[str, int | None]:
    """`a:1` -> ("a", 1), `a` -> ("a", None), `[::1]:80` -> ("::1", 80); the host in its normal form, in lower case.

    Raises ValueError when either part cannot be one.
    """
    if "/" in text:
        raise ValueError("write a host or host:port alone, without http:// and without a path")
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        digits = rest[1:] if rest else None
        try:
            host = str(IPv6Address(host))
        except AddressValueError:
            host = ""
        if not host or not closed or "%" in host or (rest and not rest.startswith(":")):
            raise ValueError("write an IPv6 address as [::1] or [::1]:8080")
    else:
        host, colon, port_text = text.partition(":")
        digits = port_text if colon else None
        host = _host_name(host)
    if digits is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", digits, re.ASCII) or not 1 <= int(digits) <= 65535:
        raise ValueError("a port is a number from 1 to 65535")
    return host, int(digits)


@lru_cache(maxsize=4096)
def _host_name(host: str) -> str:
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise ValueError("write a host or host:port, such as reviews.example or 10.0.0.1:8080")
    host = host.lower().rstrip(".")
    if "." in host and host.rpartition(".")[2].isdigit():
        # As in URLs: what ends in a number is an IPv4 address or a mistake.
        try:
            IPv4Address(host)
        except AddressValueError:
            raise ValueError(
                "not an IPv4 address: write four numbers from 0 to 255, such as 10.0.0.1"
            ) from None
    return host


def _joined(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def host_claim(value: object) -> str:
    """A host with or without wildcard and port in its normal form, or ValueError."""
    if not isinstance(value, str):
        raise ValueError("write a host, such as reviews.example, *.reviews.example or 10.0.0.5:8080")
    wildcard = value.startswith("*.")
    host, port = split_host_port(value[2:] if wildcard else value)
    if wildcard and (":" in host or host.rpartition(".")[2].isdigit()):
        raise ValueError("*. stands before a name, such as *.reviews.example")
    return ("*." if wildcard else "") + _joined(host, port)


def address(value: object) -> str:
    """A host and port in their normal form, or ValueError."""
    host, port = split_host_port(value) if isinstance(value, str) else ("", None)
    if port is None:
        raise ValueError("write an address as host:port, such as 10.0.0.1:8080")
    return _joined(host, port)
