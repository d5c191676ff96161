"""What can go wrong between the proxy and an upstream, or a client."""

import asyncio
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from addons.engine.incoming import Incoming

Kind = Literal["connect-failure", "reset", "timeout", "protocol"]


class UpstreamError(Exception):
    """An attempt that brought no (whole) answer.

    kind: "connect-failure" (no connection: refused, unknown name, TLS, too slow to connect), "reset" (the connection
    ended before the answer did), "timeout" (given up by whoever set the limit), "protocol" (not an HTTP/1.1 answer).
    detail: one line for a person. nothing_sent: the upstream cannot have seen one byte of the request.
    """

    def __init__(self, kind: Kind, detail: str, *, nothing_sent: bool = False) -> None:
        super().__init__(detail)
        self.kind: Kind = kind
        self.detail = detail
        self.nothing_sent = nothing_sent

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


class BadRequest(Exception):
    """A request that is answered with `status` and goes no further; says why. flag: the same in the access log's short codes."""

    def __init__(self, status: int, reason: str, flag: str = "DPE") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.flag = flag
        self.request: Incoming | None = None
        """The request, where its head was whole and it was never begun."""


class ClientGone(asyncio.CancelledError):
    """The client ended the connection, or broke its request off; with `refusal` it may still be told why.

    A cancellation: it is raised where an addon waits, whose `except Exception` must not take it for a failure.
    """

    def __init__(self, reason: str, refusal: BadRequest | None = None) -> None:
        super().__init__(reason)
        self.refusal = refusal
