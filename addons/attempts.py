"""The tries of one exchange: pick an endpoint, let addons act, send, judge, pause, again.

Lane-independent: it takes a routed flow and gives the upstream's answer, or
answers the flow itself. Two hooks of the mesh's own run here on every addon
that has them, a user's script included: `mesh_attempt(flow, attempt)` before
an attempt goes out and `mesh_attempt_end(flow, attempt)` when its outcome is
known; `mesh_forwarded(flow)` when no further attempt will come.
"""

import asyncio
import time

from mitmproxy import http

from addons.acting import bent
from addons.answers import answer_itself
from addons.deadline import Deadline
from addons.engine.answer import Answer
from addons.engine.call import Call
from addons.engine.carrier import carrier_of
from addons.engine.client import Client
from addons.engine.errors import UpstreamError
from addons.engine.hooks import HookTable
from addons.engine.narrowed_hooks import NarrowedHooks
from addons.engine.room import make_room
from addons.exchange import Attempt, Exchange
from addons.hedging import Judge, Race
from addons.injecting import inject
from addons.mtls_outbound import Outbound
from addons.origins import Origins
from addons.picking import Picking
from addons.upstream_request import body_of, head_of
from control.policy.answers import FixedAnswer
from control.policy.retrying import IDEMPOTENT, has_idempotency_key
from control.policy.snapshot import Endpoint

CONNECT_TIMEOUT = 5.0
IDLE_TIMEOUT = 300.0
_IDEMPOTENT = frozenset(method.encode() for method in IDEMPOTENT)


class Attempts:
    """Shared by all exchanges of a proxy."""

    def __init__(
        self,
        client: Client,
        hooks: HookTable,
        picking: Picking,
        outbound: Outbound | None = None,
        judge: Judge | None = None,
    ) -> None:
        self._client = client
        self._judge = judge
        self.hooks = hooks
        self.begin = picking.begin
        self.answer_unsent = picking.answer_unsent
        self.admitted = picking.limits.admitted
        self._beside = picking.limits.beside
        self._loop: asyncio.AbstractEventLoop | None = None
        self.origins = Origins(outbound)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The one event loop; asked for once, since on Python 3.11 asking is a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    async def run(self, flow: http.HTTPFlow, exchange: Exchange, deadline: Deadline) -> Answer | None:
        """The upstream's answer, perhaps with a rest to stream; None: the flow has an answer of the proxy's own.

        After it only `deadline` still watches, until the caller stops it.
        """
        route = exchange.route
        if route is not None and route.timeout is not None:
            # From here on, as in Envoy: a client that sends its request slowly has no less time for the answer.
            deadline.start(route.timeout)
        limited = route is not None and route.limited
        tried: list[Endpoint] = []
        carrier = carrier_of(flow)
        upload = carrier.upload if carrier is not None else None
        hooks = self.hooks.narrowed(exchange.route) if carrier is None else carrier.hooks
        head = head_of(flow.request, upload, carrier is not None and carrier.incoming.upgrade)
        if upload is not None and route is not None and route.retry is not None:
            upload.keep = route.retry.max_body
        answer: Answer | FixedAnswer | None = None
        race = None
        if route is not None and route.retry is not None and route.retry.hedge is not None:
            race = self._race(flow, exchange, deadline, head, hooks, tried)
        try:
            while race is None:
                if limited and not await self.admitted(flow, exchange, deadline):
                    return None
                attempt = self.begin(flow, exchange, tried)
                if attempt is None:
                    self.answer_unsent(flow, exchange)
                    return None
                if hooks.hears_mesh_attempt:
                    if (rest := hooks.event_of("mesh_attempt", flow, attempt)) is not None:
                        await rest
                try:
                    if attempt.delay is None and attempt.abort is None:
                        # Most often, and in this very coroutine, since each one more takes its time.
                        call = self._send(flow, exchange, attempt, deadline, head)
                        try:
                            received = await call
                        except UpstreamError as error:
                            answer = self._failed(attempt, deadline, error)
                        else:
                            answer = self._received(flow, exchange, attempt, deadline, received)
                    else:
                        answer = await self._try(flow, exchange, attempt, deadline, head)
                finally:
                    attempt.ended = time.perf_counter()
                    if hooks.hears_mesh_attempt_end:
                        if (rest := hooks.event_of("mesh_attempt_end", flow, attempt)) is not None:
                            await rest
                if attempt.pause is None:
                    break
                if isinstance(answer, Answer):
                    answer.close()
                answer = None
                await deadline.sleep(attempt.pause)
                if deadline.expired:
                    break
            if race is not None:
                decided = await race.run()
                if decided is None and flow.response is None:
                    self.answer_unsent(flow, exchange)
                if decided is None or flow.response is not None:
                    return None
                attempt, answer = decided
            if exchange.acting is not None and isinstance(answer, Answer):
                answer = bent(exchange.acting, answer, flow, deadline, gathered=False)
        finally:
            if hooks.hears_mesh_forwarded and (rest := hooks.event("mesh_forwarded", flow)) is not None:
                await rest
        if isinstance(answer, Answer):
            return answer
        answer_itself(flow, exchange, attempt, answer, deadline)
        return None

    def _race(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        deadline: Deadline,
        head: bytes,
        hooks: NarrowedHooks,
        tried: list[Endpoint],
    ) -> Race | None:
        """Of tries of which several may be under way at once; None: this request has one after the other."""
        judge, route = self._judge, exchange.route
        hedge = judge.hedge_of(flow, exchange) if judge is not None else None
        if hedge is None or judge is None:
            return None
        limited = route is not None and route.limited
        return Race(
            flow,
            exchange,
            deadline,
            hedge,
            judge,
            hooks,
            lambda: self.begin(flow, exchange, tried),
            (lambda: self.admitted(flow, exchange, deadline)) if limited else None,
            lambda: self._beside(exchange),
            lambda attempt, own: self._try(flow, exchange, attempt, own, head),
        )

    async def _try(
        self, flow: http.HTTPFlow, exchange: Exchange, attempt: Attempt, deadline: Deadline, head: bytes
    ) -> Answer | FixedAnswer | None:
        route = exchange.route
        retry = route.retry if route is not None else None
        per_try = retry.per_try_timeout if retry is not None else None
        if attempt.delay is not None or attempt.abort is not None:
            injected = await inject(attempt, deadline, per_try)
            if injected is not None or attempt.error is not None:
                return injected
        try:
            answer = await self._send(flow, exchange, attempt, deadline, head)
        except UpstreamError as error:
            return self._failed(attempt, deadline, error)
        return self._received(flow, exchange, attempt, deadline, answer)

    def _send(
        self, flow: http.HTTPFlow, exchange: Exchange, attempt: Attempt, deadline: Deadline, head: bytes
    ) -> Call:
        """Let it go out; whoever awaits the call tells what became of it by `_received` or `_failed`."""
        route = exchange.route
        retry = route.retry if route is not None else None
        per_try = retry.per_try_timeout if retry is not None else None
        if per_try is not None and attempt.delay is not None:
            per_try -= attempt.delay
        request = flow.request
        carrier = carrier_of(flow)
        upload = carrier.upload if carrier is not None else None
        origin = self.origins.of(flow, exchange, attempt)
        if route is not None and route.circuit_breaker is not None and route.circuit_breaker.connections:
            make_room(self._client, origin, route.addresses(), route.circuit_breaker.connections)
        call = self._client.send(
            origin,
            head,
            body_of(request) if upload is None else None,
            method=request.data.method,
            connect_timeout=CONNECT_TIMEOUT if route is None else route.connect_timeout,
            buffer=retry.max_body if retry is not None and retry.needs_body else 0,
            idle_timeout=IDLE_TIMEOUT if route is None else route.idle_timeout,
            resend=request.data.method in _IDEMPOTENT or has_idempotency_key(request.headers.fields),
        )
        if upload is not None:
            upload.to(call)
        deadline.watch(call, per_try)
        return call

    @staticmethod
    def _failed(attempt: Attempt, deadline: Deadline, error: UpstreamError) -> None:
        deadline.answered(whole=True)
        attempt.error = error.kind
        attempt.detail = error.detail

    @staticmethod
    def _received(
        flow: http.HTTPFlow, exchange: Exchange, attempt: Attempt, deadline: Deadline, answer: Answer
    ) -> Answer | None:
        """The answer as faults leave it; None: it broke off."""
        retry = exchange.route.retry if exchange.route is not None else None
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
