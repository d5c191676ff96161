"""Judges each attempt's outcome and asks for another try where the policy wants one."""

import random
import time
from collections import defaultdict

from mitmproxy import http

from addons.engine.carrier import carrier_of
from addons.exchange import Attempt, Exchange, exchange_of
from addons.hedging import CANCELLED
from addons.needs import needs
from control.policy.retrying import (
    CompiledHedge,
    CompiledRetry,
    Outcome,
    has_idempotency_key,
    may_resend,
    pause,
    retry_after,
    why_retry,
)


class Retry:
    """Keeps, per service, how many requests and retries run, for the retry budget."""

    def __init__(self, random_source: random.Random | None = None) -> None:
        self._random = random_source or random.Random()
        self._requests: defaultdict[str, int] = defaultdict(int)
        self._retries: defaultdict[str, int] = defaultdict(int)

    @needs("counts_retries")
    def mesh_attempt(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or not route.counts_retries:
            return
        if attempt.number == 1:
            self._requests[exchange.service] += 1

    @needs("retry")
    def mesh_attempt_end(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or (retry := route.retry) is None:
            return
        if attempt.number > 1 and route.counts_retries:
            self._drop(self._retries, exchange.service)
        # Most often it has simply succeeded, as `why_retry` would find.
        if attempt.error is not None or retry.looks_inside or attempt.status in retry.statuses:
            self._judge(flow, exchange, retry, attempt)

    @needs("counts_retries")
    def mesh_forwarded(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or not route.counts_retries:
            return
        if not exchange.attempts:
            return
        self._drop(self._requests, exchange.service)
        if exchange.attempts[-1].pause is not None:
            # The pause was granted, but the time ran out or the client left before the try.
            self._drop(self._retries, exchange.service)

    def hedge_of(self, flow: http.HTTPFlow, exchange: Exchange) -> CompiledHedge | None:
        """How this request may be hedged; None: it may not be sent twice, or its body is not at hand."""
        retry = _retry_of(exchange)
        if retry is None or retry.hedge is None or not _repeatable(flow, retry, None):
            return None
        carrier = carrier_of(flow)
        return None if carrier is not None and carrier.upload is not None else retry.hedge

    def may_hedge(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Whether one more try may begin beside those under way; it is counted from here on as any retry."""
        retry = _retry_of(exchange)
        if retry is None or len(exchange.attempts) >= retry.attempts:
            return False
        if self._lacks(exchange, retry):
            return False
        self._add(exchange)
        return True

    def not_hedged(self, exchange: Exchange) -> None:
        """It did not begin after all."""
        if exchange.route is not None and exchange.route.counts_retries:
            self._drop(self._retries, exchange.service)

    def _add(self, exchange: Exchange) -> None:
        if exchange.route is not None and exchange.route.counts_retries:
            self._retries[exchange.service] += 1

    def _lacks(self, exchange: Exchange, retry: CompiledRetry) -> str:
        """The flag of what leaves no room for one more retry; "": there is room."""
        service = exchange.service
        requests, retries = self._requests.get(service, 0), self._retries.get(service, 0)
        if retry.budget is not None and not retry.budget.try_acquire(requests, retries):
            return "URX"
        breaker = exchange.route.circuit_breaker if exchange.route is not None else None
        if breaker is not None and breaker.retries is not None and retries >= breaker.retries:
            return "UO"
        return ""

    def _judge(self, flow: http.HTTPFlow, exchange: Exchange, retry: CompiledRetry, attempt: Attempt) -> None:
        if attempt.error == CANCELLED:
            return
        error = "reset" if attempt.error == "protocol" else attempt.error
        outcome = Outcome(attempt.status, error, attempt.fields, attempt.body)
        attempt.why = why_retry(retry, outcome)
        if attempt.why is None:
            return
        if retry.hedge is not None and any(not each.ended for each in exchange.attempts):
            # The race goes on without it.
            return
        if len(exchange.attempts) >= retry.attempts:
            if retry.attempts > 1:
                exchange.flag("URX")
            return
        carrier = carrier_of(flow)
        if carrier is not None and carrier.upload is not None and carrier.upload.spent:
            return
        if not _repeatable(flow, retry, error):
            return
        if flag := self._lacks(exchange, retry):
            exchange.flag(flag)
            return
        wait = pause(retry, attempt.number, self._random)
        if retry.retry_after and attempt.status is not None:
            wait = max(wait, retry_after(attempt.fields, time.time()) or 0.0)
        self._add(exchange)
        attempt.pause = wait

    @staticmethod
    def _drop(counts: defaultdict[str, int], service: str) -> None:
        counts[service] -= 1
        if counts[service] <= 0:
            del counts[service]


def _repeatable(flow: http.HTTPFlow, retry: CompiledRetry, error: str | None) -> bool:
    """Whether the request may be sent again, after this error."""
    request = flow.request
    if len(request.raw_content or b"") > retry.max_body:
        return False
    return may_resend(retry, request.method, has_idempotency_key(request.headers.fields), error)


def _retry_of(exchange: Exchange) -> CompiledRetry | None:
    return exchange.route.retry if exchange.route is not None else None
