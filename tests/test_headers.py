import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.errors import PolicyErrors
from control.policy.headers import compile_headers
from control.policy.model import HeaderOperations
from control.policy.reading import read_bytes

NAMES = st.sampled_from(["a", "b", "c"])
Fields = list[tuple[bytes, bytes]]


def one_by_one(fields: Fields, operations: HeaderOperations) -> Fields:
    """Remove, then set, then add, each by itself."""
    for name in operations.remove:
        fields = [field for field in fields if field[0].lower() != name.encode()]
    for name, value in operations.set.items():
        fields = [field for field in fields if field[0].lower() != name.encode()] + [
            (name.encode(), value.encode())
        ]
    return fields + [(name.encode(), value.encode()) for name, value in operations.add.items()]


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"A", b"b", b"X"]), st.sampled_from([b"1", b"2"])), max_size=5),
    st.dictionaries(NAMES, st.just("set")),
    st.dictionaries(NAMES, st.just("add")),
    st.lists(NAMES, max_size=2),
)
def test_one_pass_gives_what_remove_set_add_give_one_after_the_other(
    fields: Fields, set_: dict[str, str], add: dict[str, str], remove: list[str]
) -> None:
    operations = HeaderOperations.model_validate({"set": set_, "add": add, "remove": remove})
    assert list(compile_headers(operations).apply(tuple(fields))) == one_by_one(fields, operations)


def test_names_ignore_case_and_values_are_utf_8() -> None:
    edit = compile_headers(
        HeaderOperations.model_validate({"set": {"X-User": "Zo\u00eb"}, "remove": ["VIA"]})
    )
    fields = ((b"x-USER", b"old"), (b"Via", b"1.1 a"), (b"Keep", b"me"), (b"X-User", b"older"))
    assert edit.apply(fields) == ((b"Keep", b"me"), (b"x-user", "Zo\u00eb".encode()))


def test_an_edit_that_only_adds_leaves_the_rest_as_it_is() -> None:
    edit = compile_headers(HeaderOperations.model_validate({"add": {"x-a": "2"}}))
    assert edit.apply(((b"X-A", b"1"),)) == ((b"X-A", b"1"), (b"x-a", b"2"))


def test_a_request_never_gets_a_second_host() -> None:
    with pytest.raises(PolicyErrors) as caught:
        read_bytes(b"service: web\nrequest_headers: {add: {Host: other}}", "f")
    assert str(caught.value) == (
        "f:2: web: request_headers.add.Host: a request has one Host: write rewrite: {host: ...} for another one"
    )
