"""Messages of HTTP/1.1 that are nearly right: what the tests against h11 feed to both parsers."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("MITMESH_FUZZ", "0"))
"""Examples for each property; 0: a few seconds' worth."""


def profile(few: int) -> settings:
    """`few` examples in the suite, as many as $MITMESH_FUZZ says in a long run."""
    return settings(
        max_examples=EXAMPLES or few,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


def often(usual: list[bytes], odd: list[bytes]) -> st.SearchStrategy[bytes]:
    """Mostly what is right."""
    return st.one_of(st.sampled_from(usual), st.sampled_from(usual), st.sampled_from(usual + odd))


ends = often([b"\r\n"], [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n", b"\r\n\r\n", b"\0\r\n"])
values = st.one_of(
    st.sampled_from(
        [b"", b"a", b"a b", b"a,b", b" a", b"a\t", b"\xe9", b'"a"', b"a\0", b"a\rb", b"a\x0bb", b"a\x7f"]
    ),
    st.binary(max_size=4),
)
plain_fields = st.tuples(
    often(
        [b"X-A", b"x-b", b"Accept"],
        [b"", b"X A", b"X-A ", b" X-A", b"X\tA", b"X:A", b"\xe9", b"X\0", b"(x)", b"_"],
    ),
    values,
)
lengths = st.tuples(
    often(
        [b"Content-Length"], [b"content-length", b"Content-Length ", b"Content_Length", b" Content-Length"]
    ),
    often(
        [b"0", b"5"],
        [
            *(
                b"+5",
                b"-5",
                b"5, 5",
                b"5,5",
                b"5 ",
                b"05",
                b"5 5",
                b"0x5",
                b"5;",
                b"5\t",
                b"\t5",
                b"",
                b"five",
            ),
            *(b"99999999999999999999", b"18446744073709551621", b"5\0", b"5_0", b"\xd9\xa5"),
        ],
    ),
)
encodings = st.tuples(
    often([b"Transfer-Encoding"], [b"transfer-encoding", b"Transfer-Encoding ", b"Transfer_Encoding", b"TE"]),
    often(
        [b"chunked"],
        [
            *(
                b"Chunked",
                b"chunked, chunked",
                b"gzip, chunked",
                b"chunked, gzip",
                b"identity",
                b" chunked",
                b"x",
            ),
            *(
                b"chunked\0",
                b"\x0bchunked",
                b'"chunked"',
                b"chunked;a=b",
                b"chunked,",
                b",chunked",
                b"",
                b"chunked\t",
            ),
        ],
    ),
)
connections = st.tuples(
    st.just(b"Connection"),
    st.sampled_from([b"close", b"keep-alive", b"x-a", b"close, keep-alive", b"upgrade", b"Close"]),
)
chunks = st.tuples(
    often(
        [b"5", b"1", b"a"],
        [
            b"05",
            b"5;a=b",
            b"5 ",
            b" 5",
            b"+5",
            b"0x5",
            b"5\t;a",
            b"",
            b"g",
            b"FFFFFFFFFFFFFFFFF",
            b"-1",
            b"5;\n",
            b"5;a\rb",
        ],
    ),
    ends,
    st.sampled_from([b"hello", b"x", b"0123456789", b"hello\r\n", b""]),
    ends,
).map(b"".join)
last_chunks = st.tuples(
    often([b"0"], [b"00", b"", b"0;a", b"1", b"0x0"]),
    ends,
    st.lists(
        st.tuples(plain_fields.map(lambda field: field[0] + b": " + field[1]), ends).map(b"".join), max_size=2
    ).map(b"".join),
    ends,
).map(b"".join)
bodies = st.one_of(
    st.just(b""),
    st.just(b"hello"),
    st.tuples(st.lists(chunks, max_size=3).map(b"".join), last_chunks).map(b"".join),
    st.binary(max_size=8),
)


@st.composite
def heads(draw: st.DrawFn, first: bytes, more: list[st.SearchStrategy[tuple[bytes, bytes]]]) -> bytes:
    """A first line and fields, with line ends and colons that may be wrong."""
    fields = draw(st.lists(st.one_of(plain_fields, *more), max_size=4))
    head = first + draw(ends)
    for name, value in fields:
        head += name + draw(often([b": "], [b":", b" : ", b":\t", b"", b": \r\n "])) + value + draw(ends)
    return head + draw(ends)


@st.composite
def mangled(draw: st.DrawFn, whole: bytes) -> bytes:
    """The same with up to two bytes put in, taken out or replaced."""
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(whole)))
        new = draw(
            st.one_of(
                st.sampled_from([b"", b"\0", b"\r", b"\n", b" ", b"\t", b":", b","]), st.binary(max_size=1)
            )
        )
        whole = whole[:at] + new + whole[at + draw(st.integers(0, 1)) :]
    return whole


def pieces(whole: bytes) -> st.SearchStrategy[list[bytes]]:
    """The bytes as they may come from a socket."""
    cuts = st.lists(st.integers(0, len(whole)), max_size=4).map(sorted)
    return cuts.map(
        lambda at: [
            piece
            for start, end in zip([0, *at], [*at, len(whole)], strict=True)
            if (piece := whole[start:end])
        ]
    )
