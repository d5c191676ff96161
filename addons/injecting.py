"""Lets the delays and aborts of an attempt act before it goes out."""

import time
from math import inf

from addons.deadline import Deadline
from addons.exchange import Attempt
from control.policy.answers import FixedAnswer


async def inject(attempt: Attempt, deadline: Deadline, per_try: float | None) -> FixedAnswer | None:
    """Let the attempt's faults act; the outcome, if they made one, stands in the attempt afterwards.

    Delay and abort are looked at again after each `deadline.wake()`: whoever takes them back ends the wait.
    """
    if attempt.acting is not None:
        attempt.acting.wake = deadline.wake
    began = time.perf_counter()
    waited = 0.0
    while True:
        wait = inf if attempt.abort == "hang" else attempt.delay or 0.0
        cut = per_try is not None and wait > per_try
        left = (per_try if cut and per_try is not None else wait) - waited
        if left <= 0:
            break
        await deadline.sleep(None if left == inf else left)
        if deadline.expired:
            break
        waited = time.perf_counter() - began
    if attempt.delay is not None and attempt.delay < waited:
        # It was taken back; this is what it has cost.
        attempt.delay = waited
    if deadline.expired or cut:
        attempt.error = "timeout"
        attempt.detail = "held back by a fault"
        attempt.injected = True
        return None
    abort = attempt.abort
    if abort == "reset":
        attempt.error = "reset"
        attempt.detail = "reset by a fault"
        attempt.injected = True
    elif isinstance(abort, FixedAnswer):
        attempt.status = abort.status
        attempt.fields = abort.fields
        attempt.body = abort.body
        attempt.injected = True
        return abort
    return None
