"""The mesh's own answers: a status, one line of text, and the flag that says why.

| flag | status | meaning |
|---|---|---|
| NP | 503 | the proxy has no policy |
| NR | 404 | no service claims the host |
| UF | 503 | no connection to the endpoint |
| UC | 503 | the connection ended before an answer |
| UH | 503 | no endpoint to send to, or all are ejected by the circuit breaker |
| UO | 503 | a limit of the circuit breaker is reached |
| UT | 504 | time ran out |
| RL | 429 | over a rate limit |
| UPE | 502 | the endpoint's answer was not HTTP |
| FI, DI | | a fault made this answer, or delayed it |
| URX | | all tries used; the last answer as it came |
| RBAC | 403 | the policy does not allow this caller this request |
| RBAC_AUDIT | | it would not, but is to be tried out first (`audit: true`) |
| DC | | the client went away |
| DPE | 400 | the client's request is not valid HTTP (414, 431: too large; 501: not served), or broke it in the middle of its body |
| SI | 408 | the client stopped in the middle of its head or body |
| IE | 500 | an addon of the mesh failed, the request was stopped and not let through; or an addon's answer cannot be sent |

Names as in Envoy's access log, which has no IE.
"""

from mitmproxy import http

from addons.deadline import Deadline
from addons.engine.wire import Fields
from addons.exchange import Attempt, Exchange
from control.policy.answers import FixedAnswer

FLAG_HEADER = "x-mesh-flag"
_OWN_ANSWERS = {
    "connect-failure": (503, "UF", "no connection to {}: {}"),
    "reset": (503, "UC", "{} ended the connection before it answered: {}"),
    "protocol": (502, "UPE", "{} did not answer in HTTP: {}"),
    "timeout": (504, "UT", "{} did not answer in time: {}"),
}


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


def answer_itself(
    flow: http.HTTPFlow,
    exchange: Exchange,
    attempt: Attempt | None,
    answer: FixedAnswer | None,
    deadline: Deadline,
) -> None:
    if deadline.abandoned:
        # 499 is nginx's word for it, seen in the access log alone.
        own_answer(flow, exchange, 499, "DC", "the client has left")
    elif deadline.expired:
        limit = exchange.route.timeout if exchange.route is not None else None
        tries = len(exchange.attempts)
        text = f"the timeout of {limit or 0:g} s ran out after {tries} {'try' if tries == 1 else 'tries'}"
        own_answer(flow, exchange, 504, "UT", text)
    elif answer is not None:
        flow.response = made_answer(flow.request, answer.status, answer.body, answer.fields)
        flow.response.headers[FLAG_HEADER] = "FI"
    else:
        assert attempt is not None
        assert attempt.error is not None
        status, flag, text = _OWN_ANSWERS[attempt.error]
        own_answer(flow, exchange, status, flag, text.format(attempt.address, attempt.detail))
