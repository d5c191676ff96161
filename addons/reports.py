"""Further fields of the node's report: what parts of the proxy tell of themselves."""

import logging
from collections.abc import Callable

logger = logging.getLogger("mesh.reports")


class Reports(dict[str, Callable[[], str]]):
    """Name of the field -> what gives its text (JSON where it has structure) at every report."""

    def __init__(self) -> None:
        super().__init__()
        self._failed: set[str] = set()

    def ask(self) -> dict[str, str]:
        """The fields now. One that fails is missing, and said once: the proxy lives on, and must not look dead."""
        told = {}
        for name, report in self.items():
            try:
                told[name] = report()
            except Exception:
                if name not in self._failed:
                    self._failed.add(name)
                    logger.exception(f"{name}: missing in the node's report; said only once")
        return told
