"""mitmproxy's register of addons, watched: who has compiled something from it sees when it is out of date."""

from typing import Any, Protocol


class Manager(Protocol):
    """mitmproxy's AddonManager, as far as it is used here."""

    chain: list[Any]
    lookup: dict[str, Any]


class Watched(dict[str, Any]):
    """The manager's register of addons, with a count of its changes: every addon that comes or goes passes by here."""

    changes = 0

    def __setitem__(self, name: str, addon: Any) -> None:
        super().__setitem__(name, addon)
        self.changes += 1

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.changes += 1
