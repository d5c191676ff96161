"""What can only be seen across documents, with what is stored besides."""

import time
from collections.abc import Sequence

import pytest

from control.policy.checking import check
from control.policy.model import Policy
from control.policy.reading import Document, read_bytes


def found(text: str, stored: Sequence[str] = ()) -> list[str]:
    """Every problem of applying the documents of a text over stored ones, as lines."""
    policies = [each.policy for document in stored for each in read_bytes(document.encode(), "s")]
    problems = check(read_bytes(text.encode(), "f"), {policy.service: policy for policy in policies})
    return [str(problem) for problem in problems]


A = "service: a\nhosts: [a.example, '*.a.example', 'a.example:80']\nendpoints: {v1: [a:1], v2: [a:2]}\n"
B = "service: b\nroutes:\n- {name: x, to: {a/v1: 1, v1: 2}}\nendpoints: {v1: [b:1]}\n"


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (A + "---\n" + B, []),
        (B, [A]),
        (A, [B]),
        (A, [A, B]),
        ("service: a\nendpoints: [a:1]\nto: default", []),
        ("service: a\nendpoints: [a:1]\nto: A/default", []),
        ("service: '*'\nretry: 2", [A, B]),
        ("service: a\nhosts: [A, a.example]", []),
        (
            "service: a\nhosts: [a.example]\n---\nservice: b\nhosts: ['*.example', 'a.example:80', '*.a.example']",
            [],
        ),
        # A host that moves from one service to another, in one change.
        ("service: a\n---\nservice: b\nhosts: [a.example]", [A]),
    ],
)
def test_what_fits_together(text: str, stored: list[str]) -> None:
    assert found(text, stored) == []


MANY = "service: a\nendpoints: {" + ", ".join(f"v{n}: [a:1]" for n in range(20)) + "}\n"


@pytest.mark.parametrize(
    ("text", "stored", "expected"),
    [
        ("service: a\n---\nservice: b\n---\nservice: A", [], ["f:5: a: service: a has a document on line 1 already: make one document of the two"]),
        ("service: b\nhosts: [A.Example]", [A], ["f:2: b: hosts[0]: both b and a (in redis) claim a.example: leave the host to one of them"]),
        ("service: b\nhosts: [x, '*.A.example']", [A], ["f:2: b: hosts[1]: both b and a (in redis) claim *.a.example: leave the host to one of them"]),
        ("service: b\nhosts: [a.example:80]", [A], ["f:2: b: hosts[0]: both b and a (in redis) claim a.example:80: leave the host to one of them"]),
        ("service: b\nhosts: [a]", [A], ["f:2: b: hosts[0]: both b and a (in redis) claim a: leave the host to one of them"]),
        ("service: a.example", [A], ["f:1: a.example: service: both a.example and a (in redis) claim a.example: leave the host to one of them"]),
        ("service: b\nhosts: [c]\n---\nservice: c", [], ["f:2: b: hosts[0]: both b and c (on line 4) claim c: leave the host to one of them"]),
        ("service: a\nhosts: [x, y, X]", [], ["f:2: a: hosts[2]: x is listed twice: take one out"]),
        ("service: b\nto: v1", [], ["f:2: b: to: b has no endpoints: list those of version v1 under endpoints"]),
        ("service: b\nto: {v1: 1, v3: 0}\nendpoints: {v1: [b:1], v2: [b:1]}", [], ["f:2: b: to.v3: b has no version v3: known are v1, v2"]),
        ("service: b\nroutes:\n- to: v1\n- name: x\n  to:\n    v9: 1\nendpoints: {v1: [b:1]}", [], ["f:6: b: routes[1].to.v9: b has no version v9: known are v1"]),
        ("service: b\nto: c/v1", [A], ["f:2: b: to: no service c: known are a, b"]),
        ("service: b\nto: a/v3", [A], ["f:2: b: to: a has no version v3: known are v1, v2 (in redis)"]),
        ("service: b\nto: a/v1\n---\nservice: a", [A], ["f:2: b: to: a has no endpoints: list those of version v1 under endpoints (on line 4)"]),
        ("service: b\nto: a/v10x", [MANY], ["f:2: b: to: a has no version v10x: did you mean v10? (in redis)"]),
        ("service: b\nto: a/green", [MANY], ["f:2: b: to: a has no version green: known are v0, v1, v10, v11, v12, v13, v14, v15, v16, v17 and others (in redis)"]),
        # A stored destination that the change takes away.
        ("service: a\nendpoints: {v2: [a:1]}", [A, B], ["redis: b: routes[0].to.a/v1: a has no version v1: known are v2 (in f:1)"]),
    ],
)  # fmt: skip
def test_what_does_not_fit(text: str, stored: list[str], expected: list[str]) -> None:
    assert found(text, stored) == expected


def test_a_service_that_another_reaches_cannot_be_deleted() -> None:
    (kept,) = read_bytes(B.encode(), "s")
    assert [str(each) for each in check([], {"b": kept.policy})] == [
        "redis: b: routes[0].to.a/v1: no service a: known are b"
    ]


def test_documents_without_lines_are_named_by_their_file() -> None:
    policies = [Policy(service="a", hosts=("x",)), Policy(service="b", hosts=("x",))]
    problems = check([Document(policy, "revision 7", 1) for policy in policies])
    assert [str(each) for each in problems] == [
        "revision 7:1: b: hosts[0]: both b and a (on line 1) claim x: leave the host to one of them"
    ]


def test_every_problem_is_told() -> None:
    text = "service: b\nhosts: [a, a.example]\nto: {c/v1: 1, a/v3: 1}\n---\nservice: b\nto: v7"
    assert len(found(text, [A])) == 6


@pytest.mark.slow
def test_the_cost_grows_with_the_number_of_services_and_not_faster() -> None:
    def seconds(count: int) -> float:
        stored = {
            f"s{n}": Policy.model_validate(
                {"service": f"s{n}", "hosts": [f"h{n}"], "endpoints": ["a:1"], "to": "default"}
            )
            for n in range(count)
        }
        documents = read_bytes(b"service: new\nto: s1/default", "f")
        start = time.process_time()
        assert check(documents, stored) == []
        return time.process_time() - start

    few, many = min(seconds(500) for _ in range(3)), min(seconds(5000) for _ in range(3))
    assert many < 10 * few * 5
