"""Whether one match takes every request that another one takes: only said where it is certain. Pure."""

from random import Random

from control.policy.facts import RequestFacts
from control.policy.matching import (
    All,
    AnyOf,
    Condition,
    CookieTest,
    HeaderTest,
    MethodIn,
    PathExact,
    PathPrefix,
    PathRegex,
    QueryTest,
    SourceIn,
)
from control.policy.strings import Contains, Exact, Not, Pattern, Prefix, Present, StringTest, Suffix

_NO_CHANCE = Random(0)


def covers(wide: Condition | None, narrow: Condition | None) -> bool:
    """True: `wide` holds for every request that `narrow` may hold for, whatever chance says. None: every request fits.

    False says nothing: it may be so all the same.
    """
    if wide is None:
        return True
    if narrow is None:
        return False
    if isinstance(narrow, AnyOf):
        return all(covers(wide, alternative) for alternative in narrow.alternatives)
    if isinstance(wide, AnyOf):
        return any(covers(alternative, narrow) for alternative in wide.alternatives)
    if isinstance(wide, All):
        return all(covers(condition, narrow) for condition in wide.conditions)
    if isinstance(narrow, All):
        return any(covers(wide, condition) for condition in narrow.conditions)
    return _implies(narrow, wide)


def _implies(narrow: Condition, wide: Condition) -> bool:
    """Of two single conditions. What is left to chance, and what is not known here, implies nothing and follows from nothing."""
    if isinstance(narrow, PathExact) and isinstance(wide, (PathExact, PathPrefix, PathRegex)):
        return wide.holds(_at(narrow.path), _NO_CHANCE)
    if isinstance(narrow, PathPrefix) and isinstance(wide, PathPrefix):
        return narrow.prefix == wide.prefix or narrow.below.startswith(wide.below)
    if isinstance(narrow, PathRegex) and isinstance(wide, PathRegex):
        return narrow.pattern == wide.pattern
    if isinstance(narrow, MethodIn) and isinstance(wide, MethodIn):
        return set(narrow.methods) <= set(wide.methods)
    if isinstance(narrow, SourceIn) and isinstance(wide, SourceIn):
        return set(narrow.services) <= set(wide.services)
    for kind in (HeaderTest, QueryTest, CookieTest):
        if isinstance(narrow, kind) and isinstance(wide, kind):
            return narrow.name == wide.name and _text_implies(narrow.test, wide.test)
    return False


def _text_implies(narrow: StringTest, wide: StringTest) -> bool:
    if narrow == wide:
        return True
    if isinstance(narrow, Exact):
        return wide.matches(narrow.text)
    if narrow == Present(False):
        return wide.matches(None)
    if isinstance(wide, Present):
        return wide.wanted and isinstance(narrow, (Prefix, Suffix, Contains, Pattern))
    if isinstance(narrow, Prefix) and isinstance(wide, (Prefix, Contains)):
        return wide.matches(narrow.text)
    if isinstance(narrow, Suffix) and isinstance(wide, (Suffix, Contains)):
        return wide.matches(narrow.text)
    if isinstance(narrow, Contains) and isinstance(wide, Contains):
        return wide.text in narrow.text
    if isinstance(narrow, Not) and isinstance(wide, Not):
        return _text_implies(wide.inner, narrow.inner)
    return False


def _at(path: str) -> RequestFacts:
    facts = RequestFacts("GET", "", 80, "/", ())
    facts._path = path  # as it is compared: normalized once, when the policy was compiled
    return facts
