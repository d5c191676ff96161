"""Circuit breaking, a service's endpoints together: which are left alone, and what each outcome changes.

What counts as failure is what Envoy's outlier detection counts: a status from
500 to 599, no connection, a connection that ended before an answer, an answer
that is no HTTP, a try that took too long. A status of 4xx is a success. The
status of a gRPC call counts as the HTTP status that stands for it, where it
comes with the head of the answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from control.policy.breaking import HEALTHY, CompiledBreaker, Event, Health, State, step
from control.policy.endpoints import Endpoint
from control.policy.facts import Fields
from control.policy.grpc_status import GRPC_STATUSES, http_of_grpc

_MOST_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """An endpoint (by its address) went from one state to another."""

    address: str
    before: Health
    after: Health


def failed(status: int | None, error: str | None, fields: Fields = ()) -> bool | None:
    """Whether an attempt that ended so speaks against its endpoint; None: it tells nothing.

    `fields`: the answer's header, where it may be gRPC's, whose status counts as the HTTP status that stands for it.
    """
    if error is not None:
        return None if error == "cancelled" else True
    if status is None:
        return None
    if fields and status == 200 and (said := _value_of(fields, b"grpc-status")) is not None:
        number = int(said) if said.isdigit() else -1
        name = GRPC_STATUSES[number] if 0 <= number < len(GRPC_STATUSES) else "UNKNOWN"
        status = http_of_grpc(name)
    return status >= 500


def _value_of(fields: Fields, name: bytes) -> bytes | None:
    """The first value of a header field, by its lower-case name."""
    return next((value for field, value in fields if field.lower() == name), None)


class Breaker:
    """The state of one `circuit_breaker` of one service. Mutable; closed endpoints without failures are not kept.

    Endpoints go by their address. Moments come from the caller's clock, in seconds. What is asked about many
    endpoints takes those of the version, empty where there is none but the one that the caller named.
    """

    __slots__ = ("_ejected", "_health", "_probes")

    def __init__(self) -> None:
        self._health: dict[str, Health] = {}
        self._probes: dict[str, object] = {}
        self._ejected = 0

    @property
    def calm(self) -> bool:
        """No endpoint is ejected."""
        return not self._ejected

    @property
    def blank(self) -> bool:
        """No endpoint has failed of late."""
        return not self._health

    def health(self) -> dict[str, Health]:
        """By address, those that are not simply well."""
        return dict(self._health)

    def is_barred(self, address: str, now: float, further: bool) -> bool:
        """Whether this endpoint is left alone. Where its time is over, the first try of a request may probe it.

        `further`: it is not the first try, which should reach an endpoint that works.
        """
        health = self._health.get(address, HEALTHY)
        if health.state is State.OPEN:
            return further or now < health.until
        return health.state is State.HALF_OPEN

    def barred(self, endpoints: Sequence[Endpoint], now: float, further: bool) -> list[Endpoint]:
        """Those that are left alone, see `is_barred`."""
        if not self._ejected:
            return []
        return [endpoint for endpoint in endpoints if self.is_barred(endpoint.address, now, further)]

    def opens_at(self, endpoints: Sequence[Endpoint]) -> float | None:
        """When the next of these may be probed; None: a probe is under way, or none of them is open."""
        times = [
            health.until
            for endpoint in endpoints
            if (health := self._health.get(endpoint.address, HEALTHY)).state is State.OPEN
        ]
        return min(times, default=None)

    def begin(self, address: str, attempt: object, now: float, policy: CompiledBreaker) -> Change | None:
        """The attempt goes to this endpoint; as a probe, if the endpoint's time is over."""
        if not self._ejected:
            return None
        health = self._health.get(address, HEALTHY)
        if health.state is not State.OPEN or now < health.until:
            return None
        self._probes[address] = attempt
        return self._change(address, health, Event.PROBE, now, policy)

    def end(
        self,
        address: str,
        attempt: object,
        failed: bool | None,
        now: float,
        policy: CompiledBreaker,
        endpoints: Sequence[Endpoint] = (),
    ) -> Change | None:
        """The attempt's outcome, see `failed`; None for no change of state."""
        health = self._health.get(address)
        if health is None:
            if not failed:
                return None
            health = HEALTHY
        if self._probes.get(address) is attempt and health.state is State.HALF_OPEN:
            del self._probes[address]
            outcomes = {True: Event.PROBE_FAILURE, False: Event.PROBE_SUCCESS, None: Event.PROBE_LOST}
            return self._change(address, health, outcomes[failed], now, policy)
        if failed is None:
            return None
        if not failed:
            return self._change(address, health, Event.SUCCESS, now, policy)
        most = policy.consecutive_failures
        trips = health.state is State.CLOSED and most and health.failures + 1 >= most
        if trips and self._room(endpoints, policy):
            return self._change(address, health, Event.TRIP, now, policy)
        return self._change(address, health, Event.FAILURE, now, policy)

    def keep(self, addresses: Iterable[str] | None, policy: CompiledBreaker) -> None:
        """The policy has changed: forget endpoints other than these (None: keep all)."""
        kept = None if addresses is None else set(addresses)
        ejects = policy.consecutive_failures > 0
        self._health = {
            address: health
            for address, health in self._health.items()
            if ejects and (kept is None or address in kept)
        }
        self._probes = {name: probe for name, probe in self._probes.items() if name in self._health}
        self._ejected = sum(health.state is not State.CLOSED for health in self._health.values())

    def _room(self, endpoints: Sequence[Endpoint], policy: CompiledBreaker) -> bool:
        """Whether one more may be ejected of these."""
        addresses = {endpoint.address for endpoint in endpoints}
        ejected = sum(self._health.get(address, HEALTHY).state is not State.CLOSED for address in addresses)
        return not ejected or ejected + 1 <= len(addresses) * policy.max_ejected / 100

    def _change(
        self, address: str, before: Health, event: Event, now: float, policy: CompiledBreaker
    ) -> Change | None:
        after = step(before, event, now, policy)
        if after == HEALTHY:
            self._health.pop(address, None)
        else:
            if len(self._health) >= _MOST_KEPT and address not in self._health:
                # Addresses that callers name are without number.
                self._health = {
                    name: health for name, health in self._health.items() if health.state is not State.CLOSED
                }
            self._health[address] = after
        self._ejected += (after.state is not State.CLOSED) - (before.state is not State.CLOSED)
        return None if after.state is before.state else Change(address, before, after)
