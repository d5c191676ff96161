"""Answers that policy words: fixed ones, and which answers are logged."""

from dataclasses import dataclass
from random import Random

from control.policy.facts import Fields
from control.policy.headers import encode_fields
from control.policy.model import AccessLog, Respond


@dataclass(frozen=True, slots=True)
class FixedAnswer:
    """An answer of the proxy itself; `fields` are as the policy says, without framing."""

    status: int
    fields: Fields
    body: bytes


def compile_answer(answer: Respond) -> FixedAnswer:
    return FixedAnswer(answer.status, encode_fields(answer.headers), answer.body.encode())


@dataclass(frozen=True, slots=True)
class CompiledAccessLog:
    """Which exchanges are logged; `sample` is a percentage."""

    sample: float
    only_errors: bool

    def wants(self, status: int | None, random: Random) -> bool:
        """Whether an exchange that ended with this status (None: no answer at all) is logged."""
        if self.only_errors and status is not None and status < 400:
            return False
        return random.random() * 100 < self.sample


def compile_access_log(access_log: AccessLog) -> CompiledAccessLog | None:
    """None: every exchange is logged."""
    if access_log.sample >= 100 and access_log.only is None:
        return None
    return CompiledAccessLog(access_log.sample, access_log.only == "errors")
