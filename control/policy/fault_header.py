"""The request header by which a caller asks for a fault, where the policy lets it.

`x-mesh-fault: delay=2s, abort=503`: a comma between wishes, each as the policy spells it. Like Envoy's fault headers it is
passed on, so that a fault can be asked of a proxy further on, and a `percent` in it only lowers the policy's.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from control.policy.fault_parts import EFFECTS, Fault
from control.policy.faulting import Effects, compile_effects
from control.policy.parts import MOST_ERRORS
from control.policy.units import parse_percent

HEADER = b"x-mesh-fault"
_LONGEST = 500
_HELP = "write it as delay=2s, abort=503"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a header asks for: a share in per cent, and what to do to those requests."""

    percent: float
    effects: Effects


@lru_cache(maxsize=256)
def read_wish(text: str) -> Wish:
    """The wish of a header's value; one that cannot be read is answered with 400 and a line that says why."""
    data: dict[str, Any] = {}
    percent = 100.0
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"at most {_LONGEST} characters")
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in (*EFFECTS, "percent", "grpc"):
                known = ", ".join((*EFFECTS, "grpc", "percent"))
                raise ValueError(f"{_HELP}; known are {known}, got {part.strip()!r}")
            if name in data:
                raise ValueError(f"{name} is given twice")
            if name == "percent":
                percent = parse_percent(_plain(value))
            else:
                data[name] = _plain(value)
        if "grpc" in data:
            if "abort" in data:
                raise ValueError("give one of abort and grpc")
            data["abort"] = {"grpc": data.pop("grpc")}
        if not data:
            raise ValueError(f"{_HELP}, got {text!r}")
        effects = compile_effects(Fault.model_validate(data))
    except ValidationError as error:
        lines = error.errors(include_url=False)[:MOST_ERRORS]
        said = "; ".join(
            f"{line['loc'][0] if line['loc'] else 'fault'}: {line['ctx']['text']}" for line in lines
        )
        return _refusal(said)
    except ValueError as error:
        return _refusal(str(error))
    return Wish(percent, effects)


def _refusal(said: str) -> Wish:
    text = f"{HEADER.decode()}: {said}"
    fault = {
        "abort": {
            "status": 400,
            "headers": {"content-type": "text/plain; charset=utf-8"},
            "body": text + "\n",
        }
    }
    return Wish(100.0, compile_effects(Fault.model_validate(fault)))


def _plain(value: str) -> object:
    """A number where it is one, as YAML would read it."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
