"""Judges each attempt's outcome and asks for another try where the policy wants one."""

import random
import time
from collections import defaultdict

from mitmproxy import http

from addons.engine.carrier import carrier_of
from addons.exchange import Attempt, Exchange, exchange_of
from addons.needs import needs
from control.policy.retrying import (
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

    @needs("retry")
    def mesh_attempt(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        exchange = exchange_of(flow)
        if exchange is not None and attempt.number == 1 and _retry_of(exchange) is not None:
            self._requests[exchange.service] += 1

    @needs("retry")
    def mesh_attempt_end(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        exchange = exchange_of(flow)
        if exchange is None or (retry := _retry_of(exchange)) is None:
            return
        if attempt.number > 1:
            self._drop(self._retries, exchange.service)
        self._judge(flow, exchange, retry, attempt)

    @needs("retry")
    def mesh_forwarded(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or _retry_of(exchange) is None or not exchange.attempts:
            return
        self._drop(self._requests, exchange.service)
        if exchange.attempts[-1].pause is not None:
            # The pause was granted, but the time ran out or the client left before the try.
            self._drop(self._retries, exchange.service)

    def _judge(self, flow: http.HTTPFlow, exchange: Exchange, retry: CompiledRetry, attempt: Attempt) -> None:
        error = "reset" if attempt.error == "protocol" else attempt.error
        outcome = Outcome(attempt.status, error, attempt.fields, attempt.body)
        attempt.why = why_retry(retry, outcome)
        if attempt.why is None:
            return
        if attempt.number >= retry.attempts:
            if retry.attempts > 1:
                exchange.flag("URX")
            return
        request = flow.request
        if len(request.raw_content or b"") > retry.max_body:
            return
        carrier = carrier_of(flow)
        if carrier is not None and carrier.upload is not None and carrier.upload.spent:
            return
        if not may_resend(retry, request.method, has_idempotency_key(request.headers.fields), error):
            return
        service = exchange.service
        if retry.budget and not retry.budget.try_acquire(self._requests[service], self._retries[service]):
            exchange.flag("URX")
            return
        breaker = exchange.route.circuit_breaker if exchange.route is not None else None
        if breaker is not None and breaker.retries is not None and self._retries[service] >= breaker.retries:
            exchange.flag("UO")
            return
        wait = pause(retry, attempt.number, self._random)
        if retry.retry_after and attempt.status is not None:
            wait = max(wait, retry_after(attempt.fields, time.time()) or 0.0)
        self._retries[service] += 1
        attempt.pause = wait

    @staticmethod
    def _drop(counts: defaultdict[str, int], service: str) -> None:
        counts[service] -= 1
        if counts[service] <= 0:
            del counts[service]


def _retry_of(exchange: Exchange) -> CompiledRetry | None:
    return exchange.route.retry if exchange.route is not None else None
