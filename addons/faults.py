"""Failures made on purpose: lets faults act on an attempt before it goes out, on its answer, or on a whole request."""

import asyncio
import random
from collections.abc import Awaitable, Iterable

from mitmproxy import http

from addons.acting import Acting, Hit
from addons.answers import answer_itself
from addons.client_watch import ClientWatch
from addons.deadline import Deadline
from addons.engine.carrier import carrier_of
from addons.engine.driver import taskless
from addons.engine.marks import elsewhere
from addons.exchange import Attempt, Exchange, exchange_of
from addons.injecting import inject
from addons.needs import needs
from addons.spoilt_stream import SpoiltStream, spoil
from control.policy.fault_header import HEADER, read_wish
from control.policy.faulting import CompiledFault, FaultState, fires
from control.policy.model import DEFAULTS_SERVICE
from control.policy.snapshot import Snapshot


class Faults:
    """Keeps the counters of faults across snapshots for every fault that is still there, and ends what the others do."""

    def __init__(self, random_source: random.Random | None = None) -> None:
        self._random = random_source or random.Random()
        self._states: dict[str, FaultState] = {}
        self._acting: set[Acting] = set()
        self._snapshot: Snapshot | None = None

    @needs("request_faults")
    @taskless
    def mesh_routed(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or flow.response is not None:
            return None
        if not route.request_faults:
            return None
        assert exchange.facts is not None
        gate = Attempt(0, None, exchange.facts.host, exchange.facts.port)
        gate.acting = exchange.acting = self._hits(exchange, route.request_faults, gate)
        if gate.acting is None:
            return None
        return self._above(flow, exchange, gate, gate.acting)

    @staticmethod
    async def _above(flow: http.HTTPFlow, exchange: Exchange, gate: Attempt, acting: Acting) -> None:
        """Let the faults act that hit the request as a whole; afterwards it may have its answer."""
        acting.count(gate)
        deadline = Deadline(asyncio.get_running_loop())
        # The fast lane tells by itself.
        watch = ClientWatch(flow, deadline) if carrier_of(flow) is None else None
        try:
            answer = await inject(gate, deadline, None)
        except BaseException:
            acting.end()
            raise
        finally:
            if watch is not None:
                watch.stop()
        if gate.injected:
            acting.answered = True
            acting.end()
            answer_itself(flow, exchange, gate, answer, deadline)

    @needs("faults")
    def mesh_attempt(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        exchange = exchange_of(flow)
        if exchange is not None and exchange.route is not None and exchange.route.faults:
            attempt.acting = self._hits(exchange, exchange.route.faults, attempt)

    @needs("faults")
    def mesh_attempt_end(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        if attempt.acting is not None:
            _spoil_stream(flow, attempt.acting)
            attempt.acting.attempt_over()

    @needs("request_faults")
    def mesh_forwarded(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is not None and exchange.acting is not None:
            _spoil_stream(flow, exchange.acting)
            exchange.acting.attempt_over()

    @elsewhere
    def response(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """What mitmproxy streams has passed; the engine's answers tell by themselves."""
        return _stream_passed(flow) if _acting_on_stream(flow) else None

    @elsewhere
    def error(self, flow: http.HTTPFlow) -> None:
        for acting in _acting_on_stream(flow):
            acting.end()

    def mesh_policy(self, snapshot: Snapshot) -> None:
        """Forget the counters of faults that the new snapshot no longer has, and end what they hold up."""
        self._snapshot = snapshot
        if self._states:
            live = _keys(snapshot, {key.partition("\n")[0] for key in self._states})
            self._states = {key: state for key, state in self._states.items() if key in live}
            for acting in list(self._acting):
                acting.keep(live)

    def _hits(self, exchange: Exchange, faults: Iterable[CompiledFault], attempt: Attempt) -> Acting | None:
        facts = exchange.facts
        assert facts is not None
        acting = None
        for fault in faults:
            effects, share = fault.effects, 100.0
            if effects is None:
                said = facts.field(HEADER)
                if said is None:
                    continue
                wish = read_wish(said)
                effects, share = wish.effects, wish.percent
            if not self._lives(exchange, fault):
                continue
            state = self._state(fault)
            if fires(fault, facts, state, self._random, share):
                if acting is None:
                    acting = Acting(exchange, attempt, self._acting.discard)
                    self._acting.add(acting)
                acting.add(Hit(fault, state, effects, state.random or self._random))
        return acting

    def _lives(self, exchange: Exchange, fault: CompiledFault) -> bool:
        """False: the policy has changed since this exchange began, and has no such fault any more."""
        snapshot = self._snapshot
        if snapshot is None or snapshot is exchange.snapshot:
            return True
        return fault.key in _keys(snapshot, (fault.key.partition("\n")[0],))

    def _state(self, fault: CompiledFault) -> FaultState:
        state = self._states.get(fault.key)
        if state is None:
            state = self._states[fault.key] = FaultState(fault)
        return state


def _spoil_stream(flow: http.HTTPFlow, acting: Acting) -> None:
    exchange = exchange_of(flow)
    if exchange is not None and exchange.streamed and flow.response is not None:
        spoil(flow, acting, flow.response)


def _acting_on_stream(flow: http.HTTPFlow) -> list[Acting]:
    exchange = exchange_of(flow)
    if exchange is None or not exchange.streamed:
        return []
    both = (exchange.acting, exchange.attempts[-1].acting if exchange.attempts else None)
    return [acting for acting in both if acting is not None and isinstance(acting.answer, SpoiltStream)]


async def _stream_passed(flow: http.HTTPFlow) -> None:
    for acting in _acting_on_stream(flow):
        stream = acting.answer
        assert isinstance(stream, SpoiltStream)
        await stream.ended()
        if stream.broken and flow.killable:
            flow.kill()
            if (exchange := exchange_of(flow)) is not None:
                exchange.flag("UC")
        acting.end()


def _keys(snapshot: Snapshot, services: Iterable[str]) -> set[str]:
    """The keys of the faults that the documents of these services declare."""
    keys: set[str] = set()
    for name in services:
        if name == DEFAULTS_SERVICE:
            levels = [snapshot.defaults["faults"], snapshot.defaults["request_faults"]]
        elif (service := snapshot.services.get(name)) is not None:
            levels = [
                faults
                for route in (*service.routes, service.own)
                for faults in (route.faults, route.request_faults)
            ]
        else:
            continue
        keys.update(fault.key for faults in levels for fault in faults)
    return keys
