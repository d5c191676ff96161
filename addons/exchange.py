"""What the mesh knows about one exchange: a client's request, its attempts upstream, its answer.

It hangs on the flow as a plain attribute, which mitmproxy neither saves nor
copies, and it is made once, when the request's head arrives. From then on the
exchange sees one snapshot of the policy, whatever is applied meanwhile.
"""

import time
from typing import TYPE_CHECKING, Literal

from mitmproxy import http

from control.policy.answers import FixedAnswer
from control.policy.facts import RequestFacts
from control.policy.snapshot import CompiledRoute, Endpoint, Share, Snapshot

if TYPE_CHECKING:
    from addons.acting import Acting


class Attempt:
    """One try upstream. Addons see it in `mesh_attempt` before it goes out and in `mesh_attempt_end` after.

    In `mesh_attempt` an addon may set `delay` (seconds to wait first) and
    `abort` (what happens instead of sending). In `mesh_attempt_end` it may set
    `pause` (seconds), which asks for another try.
    """

    __slots__ = (
        "number",
        "endpoint",
        "host",
        "port",
        "started",
        "ended",
        "status",
        "fields",
        "body",
        "error",
        "detail",
        "delay",
        "abort",
        "injected",
        "why",
        "pause",
        "acting",
    )

    def __init__(self, number: int, endpoint: Endpoint | None, host: str, port: int) -> None:
        self.number = number
        self.endpoint = endpoint
        """None: dialled what the caller named."""
        self.host = host
        self.port = port
        self.started = time.perf_counter()
        self.ended = 0.0
        self.status: int | None = None
        self.fields: tuple[tuple[bytes, bytes], ...] = ()
        self.body: bytes | None = None
        """The answer's whole body, if it was gathered to be judged; None otherwise."""
        self.error: str | None = None
        """`connect-failure`, `reset`, `timeout`, `protocol` or `cancelled` (another try decided); None: an answer arrived."""
        self.detail = ""
        """What a person should know about the error."""
        self.delay: float | None = None
        self.abort: FixedAnswer | Literal["reset", "hang"] | None = None
        self.injected = False
        """True when the outcome was made up by a fault."""
        self.why: str | None = None
        """The retry condition that held."""
        self.pause: float | None = None
        self.acting: Acting | None = None
        """The policy's faults that have hit it."""

    @property
    def address(self) -> str:
        """host:port that is dialled."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ms(self) -> float:
        """Milliseconds from start to the answer's head or the error."""
        return (self.ended - self.started) * 1000


class Exchange:
    """One request of a client and its answer."""

    __slots__ = (
        "snapshot",
        "node",
        "source",
        "peer",
        "tls",
        "inbound",
        "facts",
        "service",
        "route",
        "share",
        "routed",
        "request_id",
        "attempts",
        "flags",
        "started",
        "ended",
        "bytes_in",
        "bytes_out",
        "sizes",
        "logged",
        "counted",
        "streamed",
        "acting",
    )

    def __init__(self, snapshot: Snapshot | None, node: str, source: str, inbound: bool) -> None:
        self.snapshot = snapshot
        """None: the proxy never got a policy."""
        self.node = node
        self.source = source
        """The calling service, as far as this proxy knows; "" if it does not."""
        self.peer = ""
        """The SPIFFE ID that the caller's verified certificate proves; "" without one. Then `source` is its service."""
        self.tls = ""
        """The version of TLS that the caller speaks to this proxy, such as `TLSv1.3`; "" for a plain connection."""
        self.inbound = inbound
        self.facts: RequestFacts | None = None
        self.service = ""
        self.route: CompiledRoute | None = None
        self.share: Share | None = None
        self.routed = False
        self.request_id = ""
        self.attempts: list[Attempt] = []
        self.flags: list[str] = []
        self.started = time.perf_counter()
        self.ended = 0.0
        """When the log told of it, so that the metrics say the same; 0.0: not logged."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.sizes: tuple[int, int] | None = None
        """Bytes of both bodies, sent to the client and received from it, once they were summed up at the end."""
        self.logged = False
        self.counted = False
        self.streamed = False
        """True when mitmproxy's own stack carries the request's body upstream."""
        self.acting: Acting | None = None
        """The policy's faults that have hit the request as a whole."""

    def flag(self, flag: str) -> None:
        """Note a response flag once, in the order in which they arose."""
        if flag not in self.flags:
            self.flags.append(flag)


def exchange_of(flow: http.HTTPFlow) -> Exchange | None:
    """The flow's exchange; None for a flow that the mesh did not see arrive (a replay, a CONNECT)."""
    try:
        # As fast as an attribute of the flow's own; by `flow.__dict__` it takes two calls.
        return flow.mesh  # type: ignore[attr-defined, no-any-return]
    except AttributeError:
        return None


def attach(flow: http.HTTPFlow, exchange: Exchange) -> None:
    """Let the flow carry its exchange."""
    flow.mesh = exchange  # type: ignore[attr-defined]
