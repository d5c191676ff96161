"""Gets a proxy its certificates through Redis: the first by a join token, each further one by the one before."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Protocol

from cryptography import x509

from control.identity import x509 as certificates
from control.identity.identity import Identity
from control.identity.lives import Life, pause
from control.identity.names import spiffe_id
from control.identity.requests import make_request
from control.identity.tokens import Token
from control.identity.trust import Trust

PATIENCE = 10.0
"""Seconds that an answer may take."""
_FIRST_LOOK, _LONGEST_LOOK = 0.01, 0.25


class Redis(Protocol):
    """What is needed of a Store. Failures are StoreErrors, which the caller hears."""

    async def bundle(self) -> str: ...
    async def ask_certificate(self, text: str) -> None: ...
    async def certificate_answer(self, request_id: str) -> str | None: ...


class Enrolment:
    """`step` does what is due, at most one request. `identity` is in force; `error` says what stands in the way.

    The key is made here, in memory, and goes nowhere.
    """

    def __init__(
        self,
        mesh: str,
        service: str,
        node: str,
        token: Callable[[], Token],
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`token` gives the join token, read anew; it raises ValueError where there is none."""
        self.identity: Identity | None = None
        self.life: Life | None = None
        self.error = ""
        self.trust = Trust(mesh, [token().root])
        self._mesh = mesh
        self._node = node
        self._name = spiffe_id(mesh, service)
        self._token = token
        self._clock = clock
        self._random = random or Random()
        self._sleep = sleep
        self._key = certificates.new_key()
        self._failures = 0
        self._next_try = 0.0
        self._spent = ""
        self._new_root_since: float | None = None
        self._certificate_refused = False

    async def step(self, redis: Redis) -> bool:
        """Look at the trust bundle, and ask for a certificate if it is time. Whether `identity` has changed."""
        changed = False
        if self.trust.take(await redis.bundle()) and self.identity and self.trust.bundle:
            # Not checked against it: a root that went must not take the identity away before there is a new one.
            generation = self.identity.generation + 1
            self.identity = replace(self.identity, bundle=self.trust.bundle.pem, generation=generation)
            changed = True
        self._see_root()
        now = self._clock()
        if now < self._next_try or not self._is_due(now):
            return changed
        try:
            await self._renew(redis)
        except ValueError as error:
            self.error = str(error)
            self._failures += 1
            left = self.identity.not_after - now if self.identity else 0.0
            self._next_try = self._clock() + pause(self._failures, left, self._random.random())
            return changed
        self.error, self._failures, self._next_try = "", 0, 0.0
        return True

    def _see_root(self) -> None:
        """Note since when another root signs than the one that signed the present certificate."""
        bundle = self.trust.bundle
        if self.identity is None or bundle is None:
            return
        leaf = x509.load_pem_x509_certificate(self.identity.certificate)
        if bundle.root_of(leaf) == bundle.signing:
            self._new_root_since = None
        elif self._new_root_since is None:
            self._new_root_since = self._clock()

    def _is_due(self, now: float) -> bool:
        life, since = self.life, self._new_root_since
        if life is None:
            return True
        return now >= (life.renewal if since is None else life.renewal_under(since))

    async def _renew(self, redis: Redis) -> None:
        """Raises ValueError with the reason."""
        shown = self._proof()
        if self.trust.bundle is None:
            raise ValueError(self.trust.error or "there is no trust bundle in Redis")
        request_id = secrets.token_hex(16)
        request = make_request(self._key, self._name, self._mesh, self._node, request_id, shown)
        await redis.ask_certificate(request)
        answer = await self._answer(redis, request_id)
        if "refused" in answer:
            self._certificate_refused = isinstance(shown, Identity)
            raise ValueError(f"the certificate authority refused: {answer['refused']}")
        # It may be signed by a root that has come since.
        self.trust.take(await redis.bundle())
        self._adopt(answer.get("certificate", "").encode(), certificates.key_pem(self._key))
        self._key = certificates.new_key()
        self._certificate_refused = False
        if isinstance(shown, Token):
            self._spent = shown.claims

    def _proof(self) -> Token | Identity:
        identity = self.identity
        present = identity if identity is not None and self._clock() < identity.not_after else None
        if present is not None and not self._certificate_refused:
            return present
        try:
            token = self._token()
        except ValueError:
            if present is None:
                raise
            return present
        if present is not None and token.claims == self._spent:
            return present
        self.trust.trust_also([token.root])
        return token

    async def _answer(self, redis: Redis, request_id: str) -> dict[str, str]:
        now, wait = self._clock(), _FIRST_LOOK
        left = self.identity.not_after - now if self.identity is not None else 0.0
        # Near a certificate's end it is better to ask again, and to be heard about it, than to wait.
        end = now + (min(PATIENCE, max(1.0, left / 10)) if left > 0 else PATIENCE)
        while self._clock() < end:
            text = await redis.certificate_answer(request_id)
            if text is not None:
                try:
                    said = json.loads(text)
                    return {str(name): str(value) for name, value in said.items()}
                except (ValueError, AttributeError):
                    raise ValueError("the answer of the certificate authority is spoiled") from None
            await self._sleep(wait)
            wait = min(_LONGEST_LOOK, wait * 1.5)
        raise ValueError("no answer from the certificate authority: is `mitmesh ca serve` running?")

    def _adopt(self, certificate: bytes, key: bytes) -> None:
        """Raises ValueError for a certificate that is not the one that was asked for."""
        assert self.trust.bundle is not None
        generation = self.identity.generation + 1 if self.identity else 1
        identity = Identity.of(certificate, key, self.trust.bundle.pem, generation)
        now = self._clock()
        if identity.spiffe_id != self._name or identity.not_after <= now:
            raise ValueError(
                "the answer of the certificate authority is not the certificate that was asked for"
            )
        self.identity, self._new_root_since = identity, None
        self.life = Life(now, identity.not_after, self._random.random())
