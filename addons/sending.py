"""One attempt on its way: sent over a pooled connection, and what came of it noted."""

from mitmproxy import http

from addons.acting import bent
from addons.deadline import Deadline
from addons.engine.answer import Answer
from addons.engine.call import Call
from addons.engine.client import Client
from addons.engine.errors import UpstreamError
from addons.engine.room import make_room
from addons.engine.upload import Upload
from addons.exchange import Attempt, Exchange
from addons.origins import Origins
from addons.upstream_request import body_of
from control.policy.retrying import IDEMPOTENT, CompiledRetry, has_idempotency_key
from control.policy.snapshot import CompiledRoute

_IDEMPOTENT = frozenset(method.encode() for method in IDEMPOTENT)


class Sending:
    """Shared by all exchanges of a proxy."""

    def __init__(self, client: Client, origins: Origins) -> None:
        self._client = client
        self._origins = origins

    def send(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        route: CompiledRoute,
        attempt: Attempt,
        deadline: Deadline,
        head: bytes,
        upload: Upload | None,
    ) -> Call:
        """Let it go out; whoever awaits the call tells what became of it by `received` or `failed`."""
        per_try, buffer = None, 0
        if (retry := route.retry) is not None:
            per_try = retry.per_try_timeout
            if per_try is not None and attempt.delay is not None:
                per_try -= attempt.delay
            if retry.needs_body:
                buffer = retry.max_body
        request = flow.request
        method = request.data.method
        origin = self._origins.of(flow, exchange, attempt)
        if route.circuit_breaker is not None and route.circuit_breaker.connections:
            make_room(self._client, origin, route.addresses(), route.circuit_breaker.connections)
        call = self._client.send(
            origin,
            head,
            body_of(request) if upload is None else None,
            method=method,
            connect_timeout=route.connect_timeout,
            buffer=buffer,
            idle_timeout=route.idle_timeout,
            resend=method in _IDEMPOTENT or has_idempotency_key(request.data.headers.fields),
        )
        if upload is not None:
            upload.to(call)
        deadline.watch(call, per_try)
        return call


def failed(attempt: Attempt, deadline: Deadline, error: UpstreamError) -> None:
    """The call has failed: the attempt has no answer."""
    deadline.answered(whole=True)
    attempt.error = error.kind
    attempt.detail = error.detail


def received(
    flow: http.HTTPFlow,
    retry: CompiledRetry | None,
    attempt: Attempt,
    deadline: Deadline,
    answer: Answer,
) -> Answer | None:
    """The answer as faults leave it; None: it broke off."""
    if attempt.acting is not None:
        gathered = retry is not None and retry.needs_body
        spoilt = bent(attempt.acting, answer, flow, deadline, gathered)
        if spoilt is None:
            return None
        answer = spoilt
    else:
        deadline.answered(answer.complete)
    attempt.status = answer.status
    attempt.fields = answer.fields
    if answer.complete:
        # It may be longer than asked for when it came together with its head.
        if retry is None or len(answer.body) <= retry.max_body:
            attempt.body = answer.body
    return answer
