"""What can go wrong between the proxy and an upstream."""

from typing import Literal

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
