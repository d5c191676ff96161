"""mitmproxy's register of addons, watched: who has compiled something from it is told when that is out of date."""

from collections.abc import Mapping
from typing import Any, Protocol
from weakref import WeakSet


class Manager(Protocol):
    """mitmproxy's AddonManager, as far as it is used here."""

    chain: list[Any]
    lookup: dict[str, Any]


class Follower(Protocol):
    """Who is told of changes."""

    def forget(self) -> None: ...


class Watched(dict[str, Any]):
    """The manager's register of addons; every addon that comes or goes passes by here, shortly before or after it does."""

    def __init__(self, addons: Mapping[str, Any] | None = None) -> None:
        super().__init__(addons or {})
        self.followers: WeakSet[Any] = WeakSet()

    def __setitem__(self, name: str, addon: Any) -> None:
        super().__setitem__(name, addon)
        self.tell()

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.tell()

    def tell(self) -> None:
        """Let all forget what they have compiled."""
        follower: Follower
        for follower in list(self.followers):
            follower.forget()
