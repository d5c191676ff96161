"""What servers make of a path: each way that one of them is known to have is among the readings."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from control.policy.facts import normalize_path
from control.policy.path_readings import LONGEST, is_plain, readings


@pytest.mark.parametrize(
    "path",
    ["/", "/a/b", "/a.b/c..d", "/.well-known/x", "/caf%C3%A9", "/a%20b", "/a:b@c", "*", "/a/...", "/~a"],
)
def test_most_paths_have_one_reading(path):
    assert is_plain(path)
    assert readings(path)[0] == normalize_path(path)


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("//admin", "/admin"),
        ("/./admin", "/admin"),
        ("/x/../admin", "/admin"),
        ("/%2e/admin", "/admin"),
        ("/x/%2E%2e/admin", "/admin"),
        ("/x/..%2fadmin", "/admin"),
        ("/x%2f..%2fadmin", "/admin"),
        ("/%2fadmin", "/admin"),
        ("/admin%2fusers", "/admin/users"),
        ("/admin;a=1", "/admin"),
        ("/admin;a=1/users;b", "/admin/users"),
        ("/x/..;/admin", "/admin"),
        ("/x/..%3b/admin", "/admin"),
        ("/x/.%2e/admin", "/admin"),
        ("/public//../admin", "/admin"),
        ("/public//../admin", "/public/admin"),
        ("/public/../x", "/public/../x"),
        ("/x\\..\\admin", "/admin"),
        ("/x%5c..%5cadmin", "/admin"),
        ("/%252e%252e/admin", "/admin"),
        ("/%252fadmin", "/admin"),
        ("/admin%00.png", "/admin"),
        ("/admin%00/x", "/admin"),
        ("/a%2Fb", "/a%2Fb"),
    ],
)
def test_a_disguise_is_seen_through(path, read):
    assert not is_plain(path)
    assert read in readings(path)


def test_the_first_is_the_one_that_routes_see():
    assert readings("/a/%2e%2E/b%2f//")[0] == "/b%2F//"


def test_a_path_that_takes_too_long_has_none():
    assert readings("/" + "/" * LONGEST) is None
    assert is_plain("/" + "a" * LONGEST)


def escaped(path: str) -> str:
    return re.sub(r"[^!-~]", lambda found: f"%{ord(found[0]):02X}", path)


def without_dots(path: str) -> str:
    """As RFC 3986, 5.2.4, spelt out by its steps."""
    given, out = path, ""
    while given:
        if given.startswith("/./") or given == "/.":
            given = "/" + given[3:]
        elif given.startswith("/../") or given == "/..":
            given, out = "/" + given[4:], out[: max(out.rfind("/"), 0)]
        else:
            end = given.find("/", 1)
            end = len(given) if end < 0 else end
            given, out = given[end:], out + given[:end]
    return out or "/"


SERVERS = {
    "as it comes": lambda path: path,
    "dots": without_dots,
    "nginx": lambda path: without_dots(re.sub("/+", "/", unquote(path, "latin-1"))),
    "decoded": lambda path: unquote(path, "latin-1"),
    "decoded, then dots": lambda path: without_dots(unquote(path, "latin-1")),
    "tomcat": lambda path: without_dots(re.sub("/+", "/", unquote(re.sub(";[^/]*", "", path), "latin-1"))),
    "iis": lambda path: without_dots(unquote(path, "latin-1").replace("\\", "/")),
    "decoded twice": lambda path: without_dots(unquote(unquote(path, "latin-1"), "latin-1")),
    "merged after dots": lambda path: re.sub("/+", "/", without_dots(path)),
}
PIECES = [
    "/",
    "//",
    "a",
    "admin",
    ".",
    "..",
    "%2e",
    "%2E",
    "%2f",
    "%5C",
    "\\",
    ";",
    ";x=1",
    "%3b",
    "%25",
    "%252e",
    "é",
]


@pytest.mark.parametrize("server", SERVERS)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=9))
@example(pieces=["a", "/", "..", ";", "/", "admin"])
def test_whatever_a_server_reads_is_among_them(server, pieces):
    path = "/" + "".join(pieces)
    read = escaped(SERVERS[server](path))
    if read.startswith("/"):
        assert normal(read) in [normal(each) for each in readings(path)]


def normal(path: str) -> str:
    """One spelling for what no rule tells apart: of escapes of letters and dots, and of their case."""
    return re.sub(
        "%[0-9A-Fa-f]{2}",
        lambda found: (
            chr(int(found[0][1:], 16))
            if re.fullmatch("[A-Za-z0-9._~-]", chr(int(found[0][1:], 16)))
            else found[0].upper()
        ),
        path,
    )


@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_plain_paths_have_one_reading_for_sure(text):
    path = "/" + text.replace("?", "")
    if is_plain(path):
        assert set(readings(path)) == {normalize_path(path)}
