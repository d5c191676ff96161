"""What an answer says to browsers about other websites: Cross-Origin Resource Sharing, as Envoy's filter does it. Pure."""

from dataclasses import dataclass

from control.policy.facts import Fields, RequestFacts
from control.policy.model import Cors
from control.policy.strings import Exact, StringTest, compile_string

ALLOW_ORIGIN = b"access-control-allow-origin"
_DECISIONS = frozenset(
    (
        ALLOW_ORIGIN,
        *(b"access-control-" + name for name in (b"allow-credentials", b"expose-headers")),
        *(b"access-control-" + name for name in (b"allow-methods", b"allow-headers", b"max-age")),
    )
)
_VARY = b"vary"


@dataclass(frozen=True, slots=True)
class CompiledCors:
    """`every`: all origins are allowed. `preflight` and `actual` are what answers get beside the origin itself."""

    source: Cors
    every: bool
    origins: tuple[StringTest, ...]
    preflight: Fields
    actual: Fields

    def allows(self, origin: str) -> bool:
        return self.every or any(test.matches(origin) for test in self.origins)

    def answer_to_preflight(self, facts: RequestFacts) -> Fields | None:
        """The fields of the answer to a browser's question whether it may send a request; None: this is no such question."""
        if facts.method != "OPTIONS" or not facts.field(b"access-control-request-method"):
            return None
        origin = facts.field(b"origin")
        if origin is None:
            return None
        vary = ((_VARY, b"origin"),)
        if not self.allows(origin):
            return vary
        return ((ALLOW_ORIGIN, origin.encode()), *self.preflight, *vary)

    def apply(self, facts: RequestFacts, fields: Fields) -> Fields:
        """An answer's fields as this policy wants them. What the service says about origins itself does not count.

        Caches are told that the answer depends on the origin, also for requests without one.
        """
        kept = [field for field in fields if field[0].lower() not in _DECISIONS]
        varies = b", ".join(text.lower() for name, text in kept if name.lower() == _VARY)
        if not {b"origin", b"*"} & {part.strip() for part in varies.split(b",")}:
            kept.append((_VARY, b"origin"))
        origin = facts.field(b"origin")
        if origin is None or not self.allows(origin):
            return tuple(kept)
        return (*kept, (ALLOW_ORIGIN, origin.encode()), *self.actual)


def compile_cors(cors: Cors) -> CompiledCors:
    tests = tuple(compile_string(matcher) for matcher in cors.allow_origins)
    credentials: Fields = ((b"access-control-allow-credentials", b"true"),) if cors.allow_credentials else ()
    preflight: list[tuple[bytes, bytes]] = list(credentials)
    if cors.allow_methods:
        preflight.append((b"access-control-allow-methods", ", ".join(cors.allow_methods).encode()))
    if cors.allow_headers:
        preflight.append((b"access-control-allow-headers", ", ".join(cors.allow_headers).encode()))
    if cors.max_age is not None:
        preflight.append((b"access-control-max-age", b"%d" % cors.max_age))
    exposed: Fields = ()
    if cors.expose_headers:
        exposed = ((b"access-control-expose-headers", ", ".join(cors.expose_headers).encode()),)
    return CompiledCors(cors, Exact("*") in tests, tests, tuple(preflight), credentials + exposed)
