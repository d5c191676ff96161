"""`mitmesh proxy` without the mesh: the lean master and the engine, and one addon that sends each request where it wants.

python bare_engine.py CHECKOUT [mitmdump's options]
"""

import gc
import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

from mitmproxy import http

from addons import lean_proxy
from addons.engine.client import Client
from addons.engine.flows import make_response
from addons.engine.origin import Origin
from addons.engine.wire import end_to_end
from addons.upstream_request import head_of


class Bare:
    """Small bodies only."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._origins: dict[tuple[str, int], Origin] = {}

    def running(self) -> None:
        self._client = Client()
        # As `mitmesh proxy` does with its first policy.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)

    async def request(self, flow: http.HTTPFlow) -> None:
        assert self._client is not None
        data = flow.request.data
        place = (data.host, data.port)
        origin = self._origins.get(place)
        if origin is None:
            origin = self._origins[place] = Origin(*place)
        answer = await self._client.send(
            origin, head_of(flow.request), data.content or b"", method=data.method, resend=True
        )
        flow.response = make_response(
            b"HTTP/1.1", answer.status, answer.reason, end_to_end(answer.fields), answer.body, answer.head_at
        )


if __name__ == "__main__":
    lean_proxy.chain = lambda: [Bare()]  # type: ignore[attr-defined]
    lean_proxy.main(sys.argv[2:])
