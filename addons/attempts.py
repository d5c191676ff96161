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
from addons.engine.carrier import Carrier, carrier_of
from addons.engine.client import Client
from addons.engine.errors import UpstreamError
from addons.engine.hooks import HookTable
from addons.engine.narrowed_hooks import NarrowedHooks
from addons.exchange import Attempt, Exchange
from addons.hedging import Judge, Race
from addons.injecting import inject
from addons.mtls_outbound import Outbound
from addons.origins import Origins
from addons.picking import Picking
from addons.sending import Sending, failed, received
from addons.upstream_request import head_of
from control.policy.answers import FixedAnswer
from control.policy.snapshot import CompiledRoute, Endpoint


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
        self._send = Sending(client, self.origins).send

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The one event loop; asked for once, since on Python 3.11 asking is a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    async def run(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        route: CompiledRoute,
        carrier: Carrier | None,
        deadline: Deadline,
    ) -> Answer | None:
        """The upstream's answer, perhaps with a rest to stream; None: the flow has an answer of the proxy's own.

        After it only `deadline` still watches, until the caller stops it.
        """
        if route.timeout is not None:
            # From here on, as in Envoy: a client that sends its request slowly has no less time for the answer.
            deadline.start(route.timeout)
        if carrier is None:
            upload, hooks = None, self.hooks.narrowed(route)
            head = head_of(flow.request)
        else:
            upload, hooks = carrier.upload, carrier.hooks
            head = head_of(flow.request, upload, carrier.incoming.upgrade)
        tried: list[Endpoint] = []
        race = None
        if (retry := route.retry) is not None:
            if upload is not None:
                upload.keep = retry.max_body
            if retry.hedge is not None:
                race = self._race(flow, exchange, route, deadline, head, hooks, tried)
        try:
            while race is None:
                if route.limited and not await self.admitted(flow, exchange, deadline):
                    return None
                attempt = self.begin(flow, exchange, tried)
                if attempt is None:
                    self.answer_unsent(flow, exchange)
                    return None
                if hooks.hears_mesh_attempt:
                    if (rest := hooks.event_of("mesh_attempt", flow, attempt)) is not None:
                        await rest
                answer: Answer | FixedAnswer | None = None
                try:
                    if attempt.delay is None and attempt.abort is None:
                        # Most often, and in this very coroutine, since each one more takes its time.
                        call = self._send(flow, exchange, route, attempt, deadline, head, upload)
                        try:
                            arrived = await call
                        except UpstreamError as error:
                            failed(attempt, deadline, error)
                        else:
                            answer = received(flow, retry, attempt, deadline, arrived)
                    else:
                        answer = await self._try(flow, exchange, route, attempt, deadline, head)
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
        route: CompiledRoute,
        deadline: Deadline,
        head: bytes,
        hooks: NarrowedHooks,
        tried: list[Endpoint],
    ) -> Race | None:
        """Of tries of which several may be under way at once; None: this request has one after the other."""
        judge = self._judge
        hedge = judge.hedge_of(flow, exchange) if judge is not None else None
        if hedge is None or judge is None:
            return None
        return Race(
            flow,
            exchange,
            deadline,
            hedge,
            judge,
            hooks,
            lambda: self.begin(flow, exchange, tried),
            (lambda: self.admitted(flow, exchange, deadline)) if route.limited else None,
            lambda: self._beside(exchange),
            lambda attempt, own: self._try(flow, exchange, route, attempt, own, head),
        )

    async def _try(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        route: CompiledRoute,
        attempt: Attempt,
        deadline: Deadline,
        head: bytes,
    ) -> Answer | FixedAnswer | None:
        carrier, retry = carrier_of(flow), route.retry
        if attempt.delay is not None or attempt.abort is not None:
            injected = await inject(attempt, deadline, None if retry is None else retry.per_try_timeout)
            if injected is not None or attempt.error is not None:
                return injected
        try:
            upload = carrier.upload if carrier is not None else None
            answer = await self._send(flow, exchange, route, attempt, deadline, head, upload)
        except UpstreamError as error:
            failed(attempt, deadline, error)
            return None
        return received(flow, retry, attempt, deadline, answer)
