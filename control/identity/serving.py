"""The certificate authority at work: answers what waits in Redis, keeps the trust bundle there, goes on with a rotation."""

import json
import time
from collections.abc import Callable
from typing import Protocol

from control.identity import x509 as certificates
from control.identity.authority import Authority
from control.identity.bundles import read_bundle
from control.identity.folders import AuthorityError
from control.identity.issuing import Issued, answer
from control.identity.requests import Refused, read_request
from control.identity.rotation import Shown, Step, all_shown, next_step
from control.store_records import NodeReport

LOOK = 1.0
"""Seconds between looks at the bundle, the rotation, and reports about itself."""
TTL = 3.0


class Redis(Protocol):
    """What is needed of a Store. Failures are StoreErrors, which the caller hears."""

    async def bundle(self) -> str: ...
    async def set_bundle(self, text: str) -> None: ...
    async def certificate_requests(self) -> list[tuple[str, str]]: ...
    async def answer_certificate(self, entry: str, request_id: str, text: str) -> None: ...
    async def tell_refusal(self, service: str, node: str, reason: str) -> None: ...
    async def tell_authority(self, fields: dict[str, str], ttl: float) -> None: ...
    async def nodes(self) -> list[NodeReport]: ...


class Serving:
    """`issued` and `refused` are told of each request, `noted` of what happens besides."""

    def __init__(
        self,
        authority: Authority,
        redis: Redis,
        lifetime: float,
        issued: Callable[[Issued], None],
        refused: Callable[[Refused], None],
        noted: Callable[[str], None],
    ) -> None:
        self._authority = authority
        self._redis = redis
        self._lifetime = lifetime
        self._told = issued, refused, noted
        self._counts = {"issued": 0, "refused": 0}
        self._started = time.time()

    async def serve_waiting(self) -> None:
        """Answer every request that waits. Raises StoreError and AuthorityError."""
        for entry, text in await self._redis.certificate_requests():
            issued, refused, _ = self._told
            try:
                done = self._answer(text)
            except Refused as refusal:
                self._counts["refused"] += 1
                refused(refusal)
                await self._redis.tell_refusal(refusal.service, refusal.node[:200], refusal.reason)
                said = {"refused": refusal.reason}
            else:
                self._counts["issued"] += 1
                issued(done)
                said = {"certificate": done.certificate.decode()}
            await self._redis.answer_certificate(entry, self._id(text), json.dumps(said))

    def _answer(self, text: str) -> Issued:
        try:
            return answer(self._authority, text, self._lifetime)
        except (Refused, AuthorityError):
            raise
        except Exception as error:
            # Anybody may put anything there: one request must not end the service for all.
            raise Refused(f"it cannot be read ({type(error).__name__})") from error

    def _id(self, text: str) -> str:
        try:
            return read_request(text, self._authority.mesh).id
        except Exception:
            return ""

    async def look_around(self) -> None:
        """Put the bundle into Redis where it is not, go on with a rotation, and tell what this is doing."""
        await self._rotate()
        await publish(self._authority, self._redis)
        await self._redis.tell_authority(self._report(), TTL)

    async def _rotate(self) -> None:
        state = self._authority.state()
        if not state.rotating:
            return
        shown = all_shown((node.id, node.extra.get("identity", "")) for node in await self._redis.nodes())
        step, behind = step_of(self._authority, self._lifetime, shown)
        noted = self._told[2]
        if step is Step.SIGN:
            self._authority.sign_with_newest()
            left_behind = f"; not waited for any longer: {', '.join(behind)}" if behind else ""
            noted(f"the new root signs from now on{left_behind}")
        elif step is Step.DROP:
            self._authority.drop_old_roots()
            noted("the old root is trusted no more: the rotation is complete")

    def _report(self) -> dict[str, str]:
        authority = self._authority
        state, now = authority.state(), authority.clock()
        roots = [
            {
                "fingerprint": certificates.fingerprint(root),
                "not_after": root.not_valid_after_utc.timestamp(),
                "signing": number == state.signing,
            }
            for number in state.roots
            for root in [authority.root(number)]
        ]
        tokens = [
            {
                "token": digest[:12],
                "service": entry.service,
                "expires": entry.expires,
                "left": entry.uses - len(entry.used),
            }
            for digest, entry in authority.ledger().open_tokens(now).items()
        ]
        return {
            "started": repr(self._started),
            "lifetime": repr(self._lifetime),
            "serial": str(state.serial),
            "since": repr(state.since),
            "roots": json.dumps(roots),
            "tokens": json.dumps(tokens[:100]),
            **{name: str(count) for name, count in self._counts.items()},
        }


def step_of(authority: Authority, lifetime: float, shown: list[Shown]) -> tuple[Step, list[str]]:
    """Where the authority's rotation stands."""
    state = authority.state()
    signing = certificates.fingerprint(authority.root(state.signing))
    newest_signs, age = state.signing == state.roots[-1], authority.clock() - state.since
    return next_step(state.rotating, newest_signs, state.serial, signing, age, lifetime, shown)


async def publish(authority: Authority, redis: Redis) -> None:
    """Write the bundle to Redis unless it is there; what somebody else put there does not stay."""
    own = authority.bundle()
    try:
        there = read_bundle(await redis.bundle(), authority.mesh, own.fingerprints)
    except ValueError:
        there = None
    if there is None or (there.serial, there.fingerprints) != (own.serial, own.fingerprints):
        await redis.set_bundle(authority.statement())
