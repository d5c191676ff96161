from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.facts import RequestFacts, field_map, field_text, normalize_path, policy_path


def facts(target: str = "/", *fields: tuple[bytes, bytes]) -> RequestFacts:
    return RequestFacts("GET", "reviews", 80, target, fields)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("", ""),
        ("*", "*"),
        ("/a/b?c=/../d", "/a/b"),
        ("/a?b?c", "/a"),
        ("/%61%2D%7e/%5f.", "/a-~/_."),
        ("/a%2fb%3f", "/a%2Fb%3F"),
        ("/a%25%32%35", "/a%2525"),
        ("/a%2541", "/a%2541"),
        ("/100%", "/100%"),
        ("/%zz%4", "/%zz%4"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/../../x", "/x"),
        ("/..", "/"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/.hidden/..x/...", "/.hidden/..x/..."),
        ("/a//../b", "/a/b"),
        ("//a//b", "//a//b"),
        ("\\a\\..\\b", "/b"),
        ("/caf\u00e9", "/caf%E9"),
        ("/caf\u00c3\u00a9", "/caf%C3%A9"),
        ("/\u20ac", "/%E2%82%AC"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/\udcff", "/%FF"),
    ],
)
def test_path_is_normalized_as_istio_does_at_base(target: str, path: str) -> None:
    assert facts(target).path == path


@given(st.text(alphabet="/.%2eEfF?a\\é", max_size=20))
def test_the_fast_way_to_the_path_gives_what_the_thorough_one_gives(rest: str) -> None:
    target = "/" + rest
    assert facts(target).path == normalize_path(target.partition("?")[0])


@given(st.text(alphabet="/.%2eEa\\", max_size=20))
def test_no_dot_segment_is_left(rest: str) -> None:
    path = normalize_path("/" + rest)
    assert path.startswith("/")
    assert not {".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("/api/v1", "/api/v1"),
        ("/caf\u00e9 au lait", "/caf%C3%A9%20au%20lait"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a/%2e%2e/b", "/b"),
        ("/%7Euser/{id}", "/~user/{id}"),
    ],
)
def test_a_path_of_a_policy_is_normalized_like_one_on_the_wire(written: str, path: str) -> None:
    assert policy_path(written) == path


def test_path_is_found_once() -> None:
    request = facts("/a/../b")
    assert request.path is request.path


def test_headers_ignore_case_and_join_values() -> None:
    request = facts("/", (b"X-A", b"1"), (b"x-b", b"2"), (b"x-A", b"3"))
    assert request.header("x-a") == "1, 3"
    assert request.header("x-b") == "2"
    assert request.header("x-c") is None
    assert request.field(b"x-a") == "1, 3"


def test_a_header_name_outside_latin_1_is_absent() -> None:
    assert facts("/", (b"x", b"1")).header("x\u20ac") is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"plain", "plain"), ("Zo\u00eb".encode(), "Zo\u00eb"), (b"Zo\xeb", "Zo\u00eb"), (b"", "")],
)
def test_field_values_are_utf_8_or_else_latin_1(raw: bytes, text: str) -> None:
    assert field_text(raw) == text


@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"A", b"b", b"cookie"]), st.sampled_from([b"1", b"2"])), max_size=6
    )
)
def test_field_map_joins_in_order(fields: list[tuple[bytes, bytes]]) -> None:
    expected: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        expected.setdefault(name.lower(), []).append(value)
    joined = {name: (b"; " if name == b"cookie" else b", ").join(values) for name, values in expected.items()}
    assert field_map(tuple(fields)) == joined


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        ("/x?a=1&b=2", "b", "2"),
        ("/x?a=1&a=2", "a", "1"),
        ("/x?a", "a", ""),
        ("/x?a=", "a", ""),
        ("/x?a=b=c", "a", "b=c"),
        ("/x?a=1+2%2B3", "a", "1 2+3"),
        ("/x?%61=1", "a", "1"),
        ("/x?a=%C3%A9", "a", "\u00e9"),
        ("/x?a=%FF", "a", "\ufffd"),
        ("/x?a=\udcff", "a", "\ufffd"),
        ("/x?a=\u00c3\u00a9", "a", "\u00e9"),
        ("/x?a=\u20ac", "a", "\u20ac"),
        ("/x?a=1;b=2", "b", None),
        ("/x?a=1", "b", None),
        ("/x?", "", None),
        ("/x", "a", None),
        ("/x?a=1?b=2", "a", "1?b=2"),
    ],
)
def test_query_gives_the_first_value_decoded(target: str, name: str, value: str | None) -> None:
    assert facts(target).query(name) == value


@given(st.text(alphabet="ab=&+%41", max_size=20))
def test_query_reads_as_the_standard_library_does(query: str) -> None:
    expected: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        expected.setdefault(name, value)
    request = facts("/x?" + query)
    assert {name: request.query(name) for name in expected} == expected
    assert request.query("zz") is None


@pytest.mark.parametrize(
    ("cookies", "name", "value"),
    [
        ([b"a=1; b=2"], "b", "2"),
        ([b"a=1;b=2"], "b", "2"),
        ([b"a=1", b"b=2"], "b", "2"),
        ([b"a=1; a=2"], "a", "1"),
        ([b'a="x y"'], "a", "x y"),
        ([b'a="'], "a", '"'),
        ([b"a=b=c"], "a", "b=c"),
        ([b"flag; a=1"], "flag", None),
        ([b"a="], "a", ""),
        ([b""], "a", None),
        ([], "a", None),
    ],
)
def test_cookies(cookies: list[bytes], name: str, value: str | None) -> None:
    assert facts("/", *((b"Cookie", cookie) for cookie in cookies)).cookie(name) == value
