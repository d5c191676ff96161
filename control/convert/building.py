"""Putting together the document of one service: versions with their addresses, routes with names of their own."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from control.convert.values import name_of
from control.policy.addresses import host_claim
from control.policy.values import NAME

NO_MATCH = "nothing else matched"


@dataclass
class Draft:
    """A document in the making; `file` and `line` are where the first of its sources stands."""

    service: str
    hosts: list[str] = field(default_factory=list)
    endpoints: dict[str, list[Any]] = field(default_factory=dict)
    routes: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    line: int = 0

    def version(self, wanted: str, address: str) -> str:
        """The version that is served at this address, called `wanted` or, where that is taken, something like it."""
        name = base = name_of(wanted)
        number = 2
        while name in self.endpoints and self.endpoints[name] != [address]:
            name, number = f"{base}-{number}", number + 1
        self.endpoints[name] = [address]
        return name

    def route(self, name: str, data: dict[str, Any]) -> None:
        """One more route; its name is made different from those there are."""
        names = {each["name"] for each in self.routes}
        unique, number = name[:90], 2
        while unique in names:
            unique, number = f"{name[:90]} ({number})", number + 1
        self.routes.append({"name": unique, **data})

    def end_routes(self, *, had_any: bool) -> None:
        """What no route matches gets 404: there the document's own settings would take it.

        had_any: there were routes, though perhaps none of them could be converted.
        """
        if self.routes and any("match" not in each for each in self.routes):
            last = next(index for index, each in enumerate(self.routes) if "match" not in each)
            del self.routes[last + 1 :]
        elif had_any:
            self.route(NO_MATCH, {"respond": {"status": 404}})

    def data(self) -> dict[str, Any]:
        """The document as it is written."""
        data: dict[str, Any] = {"service": self.service}
        if hosts := [host for host in dict.fromkeys(self.hosts) if host != self.service]:
            data["hosts"] = hosts
        if self.endpoints:
            data["endpoints"] = self.endpoints
        if self.routes:
            data["routes"] = self.routes
        return {**data, **self.settings}


def named_by(hosts: Iterable[str], otherwise: str) -> str:
    """The service's name: the first host that can be one, else that of the foreign document."""
    for host in hosts:
        if not host.startswith("*") and NAME.fullmatch(host):
            return host
    return name_of(otherwise).lower()


def claimable(host: str) -> str:
    """The host in its normal form. Raises ValueError for one that cannot be claimed."""
    if host == "*":
        raise ValueError("every host cannot be claimed here: name the hosts")
    return host_claim(host)
