"""The mesh's own answers: a status, one line of text, and the flag that says why.

| flag | status | meaning |
|---|---|---|
| NP | 503 | the proxy has no policy |
| NR | 404 | no service claims the host |
| UF | 503 | no connection to the endpoint |
| UC | 503 | the connection ended before an answer |
| UH | 503 | no endpoint to send to |
| UT | 504 | time ran out |
| UPE | 502 | the endpoint's answer was not HTTP |
| FI, DI | | a fault made this answer, or delayed it |
| URX | | all tries used; the last answer as it came |
| RBAC | 403 | the policy does not allow this caller this request |
| RBAC_AUDIT | | it would not, but is to be tried out first (`audit: true`) |
| DC | | the client went away |
| DPE | 400 | the client's request broke HTTP in the middle of its body |
| SI | 408 | the client stopped in the middle of its body |
| IE | 500 | an addon of the mesh failed; the request was stopped, not let through |

Names as in Envoy's access log, which has no IE.
"""

from mitmproxy import http

from addons.engine.wire import Fields
from addons.exchange import Exchange

FLAG_HEADER = "x-mesh-flag"


def made_answer(request: http.Request, status: int, body: bytes, fields: Fields) -> http.Response:
    """An answer of the proxy's own to this request, which has the body only where HTTP allows one."""
    response = http.Response.make(status, body, fields)
    if request.data.method == b"HEAD" or status in (204, 304):
        # mitmproxy's own stack would send it nevertheless, and the next answer with it.
        response.data.content = b""
        if status == 204:
            del response.headers["content-length"]
    return response


def own_answer(flow: http.HTTPFlow, exchange: Exchange | None, status: int, flag: str, text: str) -> None:
    """Answer the flow from the proxy itself; replaces whatever answer it had."""
    body = text.rstrip("\n").encode() + b"\n"
    fields = ((b"content-type", b"text/plain; charset=utf-8"), (FLAG_HEADER.encode(), flag.encode()))
    flow.response = made_answer(flow.request, status, body, fields)
    if exchange is not None:
        exchange.flag(flag)
