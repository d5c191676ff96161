"""Failures made on purpose: lets a fault act on an attempt before it goes out."""

import random

from mitmproxy import http

from addons.exchange import Attempt, exchange_of
from addons.needs import needs
from control.policy.faulting import CompiledFault, FaultState, fires
from control.policy.snapshot import Snapshot


class Faults:
    """Keeps the counters of `first` and `every` across snapshots for every fault that is still there."""

    def __init__(self, random_source: random.Random | None = None) -> None:
        self._random = random_source or random.Random()
        self._states: dict[str, FaultState] = {}

    @needs("faults")
    def mesh_attempt(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        """Delays of several faults add up; the first abort stands."""
        exchange = exchange_of(flow)
        if exchange is None or exchange.route is None or not exchange.route.faults:
            return
        assert exchange.facts is not None
        for fault in exchange.route.faults:
            if fires(fault, exchange.facts, self._state(fault), self._random):
                if fault.delay is not None:
                    attempt.delay = (attempt.delay or 0.0) + fault.delay
                    exchange.flag("DI")
                if fault.abort is not None and attempt.abort is None:
                    attempt.abort = fault.abort
                    exchange.flag("FI")

    def mesh_policy(self, snapshot: Snapshot) -> None:
        """Forget the counters of faults that the new snapshot no longer has."""
        if self._states:
            live = {
                fault.key
                for service in (
                    *snapshot.services.values(),
                    *([snapshot.unknown] if snapshot.unknown else []),
                )
                for route in (*service.routes, service.own)
                for fault in route.faults
            }
            self._states = {key: state for key, state in self._states.items() if key in live}

    def _state(self, fault: CompiledFault) -> FaultState:
        state = self._states.get(fault.key)
        if state is None:
            state = self._states[fault.key] = FaultState(fault)
        return state
