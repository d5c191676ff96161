"""One stage of the demo: a policy is applied, seen by the proxy, and its success rate measured."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from control.commands.failure import Failed
from control.demo.client import Answer, ProxyConnection
from control.policy.checking import check
from control.policy.errors import PolicyErrors
from control.policy.reading import normalize, read_bytes
from control.store import Store

CONNECTIONS = 8
FAILURE_RATE = 0.9
SEEN_WITHIN_SECONDS = 10.0
TRANSPORT_ERRORS = (OSError, EOFError, TimeoutError, ValueError)

# The route lets the proxy itself tell which policy it follows: asking costs the server no request.
POLICY = """\
service: server
hosts: ["127.0.0.1:{port}", "localhost:{port}"]
retry:
  attempts: {tries}
  on: [connect-failure, reset, 5xx, {{body: "failure\\n"}}]
  backoff: {{base: 1ms, max: 5ms}}
routes:
  - name: which policy
    match: {{path: /which-policy}}
    respond: {{headers: {{x-policy-tries: "{tries}"}}}}
"""


@dataclass(frozen=True)
class Stage:
    """What was measured under one policy."""

    tries: int
    requests: int
    succeeded: int
    unexpected: Counter[str]
    """Answers that are neither `success` nor `failure` of the server, by what they were."""
    seen_seconds: float
    """From just before the change went to Redis until an answer under it had arrived."""

    @property
    def measured(self) -> float:
        return self.succeeded / self.requests

    @property
    def expected(self) -> float:
        return 1 - FAILURE_RATE**self.tries

    @property
    def three_sigma(self) -> float:
        """Three standard deviations of the measured rate, as a binomial share."""
        return 3 * math.sqrt(self.expected * (1 - self.expected) / self.requests)

    @property
    def within(self) -> bool:
        return abs(self.measured - self.expected) <= self.three_sigma

    def data(self) -> dict[str, Any]:
        """For `--json`: rates from 0 to 1, the time in milliseconds."""
        return {
            "tries": self.tries,
            "requests": self.requests,
            "succeeded": self.succeeded,
            "measured": round(self.measured, 4),
            "expected": round(self.expected, 4),
            "three_sigma": round(self.three_sigma, 4),
            "within_three_sigma": self.within,
            "policy_seen_ms": round(self.seen_seconds * 1000, 1),
            "unexpected": dict(self.unexpected),
        }


class Course:
    """Where the demo runs: the mesh's store, the proxy's port and the server's."""

    def __init__(self, store: Store, proxy_port: int, server_port: int) -> None:
        self._store = store
        self._proxy_port = proxy_port
        self._url = f"http://127.0.0.1:{server_port}"
        self._server_port = server_port

    async def stage(self, tries: int, requests: int, advance: Callable[[], object]) -> Stage:
        """Apply, wait until seen, measure. `advance` is called after each request."""
        seen = await self._apply(tries)
        succeeded, unexpected = await self._measure(requests, advance)
        return Stage(tries, requests, succeeded, unexpected, seen)

    async def _apply(self, tries: int) -> float:
        documents = read_bytes(POLICY.format(port=self._server_port, tries=tries).encode(), "demo")
        if problems := check(documents):
            raise PolicyErrors(tuple(problems))
        change = {document.policy.service: normalize(document.policy) for document in documents}
        watcher = asyncio.create_task(self._sees(str(tries)))
        try:
            started = time.perf_counter()
            await self._store.change(lambda _: change, author="mitmesh demo", message=f"{tries} tries")
            return await watcher - started
        finally:
            watcher.cancel()

    async def ready(self) -> None:
        """Returns once the proxy has read the mesh, empty as it is, and passes requests on."""
        await self._until(lambda answer: answer.fields.get("x-mesh-flag") != "NP", "has no policy")

    async def _sees(self, tries: str) -> float:
        """The moment at which the first answer under the new policy was here."""
        return await self._until(
            lambda answer: answer.fields.get("x-policy-tries") == tries, "does not follow the new policy"
        )

    async def _until(self, met: Callable[[Answer], bool], otherwise: str) -> float:
        """Ask the proxy which policy it follows, again and again; when an answer arrived that `met` holds for."""
        connection = ProxyConnection("127.0.0.1", self._proxy_port)
        deadline = time.perf_counter() + SEEN_WITHIN_SECONDS
        try:
            while (asked := time.perf_counter()) < deadline:
                answer = await connection.get(f"{self._url}/which-policy")
                arrived = time.perf_counter()
                if met(answer):
                    return arrived
                if arrived - asked < 0.001:
                    await asyncio.sleep(0.0005)
        except TRANSPORT_ERRORS as error:
            raise Failed(f"error: the proxy on port {self._proxy_port} does not answer: {error!r}") from None
        finally:
            connection.close()
        raise Failed(f"error: the proxy {otherwise} after {SEEN_WITHIN_SECONDS:.0f}s")

    async def _measure(self, requests: int, advance: Callable[[], object]) -> tuple[int, Counter[str]]:
        left = iter(range(requests))
        answers: Counter[str] = Counter()

        async def caller() -> None:
            connection = ProxyConnection("127.0.0.1", self._proxy_port)
            try:
                for _ in left:
                    try:
                        answer = await connection.get(f"{self._url}/")
                        known = (answer.status, answer.body) in ((200, b"success\n"), (500, b"failure\n"))
                        answers[answer.body.decode().strip() if known else f"status {answer.status}"] += 1
                    except TRANSPORT_ERRORS as error:
                        answers[repr(error)] += 1
                    advance()
            finally:
                connection.close()

        await asyncio.gather(*(caller() for _ in range(CONNECTIONS)))
        succeeded = answers.pop("success", 0)
        answers.pop("failure", 0)
        return succeeded, answers
