"""What is published about the mesh: when to look for what has changed."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

from control import store_records as records
from control.store_records import Hint, Moved
from control.store_registry import moves_channel


class Hints(ABC):
    """Publications of one mesh, read; `Store` brings the connection."""

    mesh: str
    _changes: str

    @abstractmethod
    def _heard(self, *channels: str) -> AsyncGenerator[tuple[str, bytes] | None, None]:
        """None once the subscription stands, then the channel and text of each publication."""

    async def hints(self) -> AsyncGenerator[Hint | None, None]:
        """None once the subscription stands, then each publication; None for one that is no hint.

        Raises StoreError when the connection is lost, at the latest 2 seconds after the server fell silent.
        Close it (aclose, or cancel its task) to give the connection back.
        """
        async with aclosing(self._heard(self._changes)) as heard:
            async for message in heard:
                yield None if message is None else records.read_hint(message[1])

    async def hints_and_moves(self) -> AsyncGenerator[Hint | Moved | None, None]:
        """As `hints`, and that an endpoint has come or gone."""
        moves = moves_channel(self.mesh)
        async with aclosing(self._heard(self._changes, moves)) as heard:
            async for message in heard:
                if message is None:
                    yield None
                else:
                    yield Moved() if message[0] == moves else records.read_hint(message[1])
