"""What an exchange of the fast lane has beside its flow: the client's request, and bodies on their way."""

from collections.abc import Callable

from mitmproxy import http

from addons.engine.answer import Answer
from addons.engine.incoming import Incoming
from addons.engine.narrowed_hooks import NarrowedHooks
from addons.engine.upload import Upload
from addons.engine.wire import Fields


class Carrier:
    """Hangs on a flow of the fast lane from its beginning to its end. upload: None unless the request's body streams."""

    __slots__ = (
        "answer",
        "error",
        "framed",
        "head",
        "hooks",
        "idle_timeout",
        "incoming",
        "on_end",
        "received",
        "sent",
        "upload",
    )

    def __init__(self, incoming: Incoming, hooks: NarrowedHooks) -> None:
        self.incoming = incoming
        self.hooks = hooks
        """Those that are called for this exchange from now on; whoever knows that some have nothing to do narrows them."""
        self.upload: Upload | None = None
        self.answer: Answer | None = None
        self.head: http.Response | None = None
        self.framed: tuple[Fields, bytes] | None = None
        """Fields and body of an answer of which it is known that one says the length of the other, and no hop's field is there."""
        self.error: Exception | None = None
        """What broke the answer off, set before the flow's `error` hook."""
        self.sent = 0
        """Bytes of a streamed answer's body, or through an upgraded connection, that went to the client."""
        self.received = 0
        """Bytes of an upgraded connection that came from the client."""
        self.idle_timeout: float | None = None
        """Of an upgraded connection: seconds without a byte either way until it is closed."""
        self.on_end: Callable[[], None] | None = None
        """Called once, when the last byte of the answer was sent or the exchange failed."""

    def offer(self, head: http.Response, answer: Answer) -> None:
        """For whoever forwards: the rest of `answer` is the body of `head`, if that is still the flow's response then."""
        self.head = head
        self.answer = answer

    def end(self) -> None:
        """The exchange is over; what still runs of it is cut. More than once does no harm."""
        if self.upload is not None:
            self.upload.stop()
        if self.answer is not None:
            self.answer.close()
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end()


def carrier_of(flow: http.HTTPFlow) -> Carrier | None:
    """The flow's carrier; None in mitmproxy's own lane."""
    try:
        # As fast as an attribute of the flow's own; by `flow.__dict__` it takes two calls.
        return flow.mesh_carrier  # type: ignore[attr-defined, no-any-return]
    except AttributeError:
        return None


def load(flow: http.HTTPFlow, carrier: Carrier) -> None:
    """Let the flow have its carrier."""
    flow.mesh_carrier = carrier  # type: ignore[attr-defined]


def unload(flow: http.HTTPFlow) -> None:
    """The flow may be kept or replayed, in mitmproxy's own lane then; its connection shall not be."""
    flow.__dict__.pop("mesh_carrier", None)
