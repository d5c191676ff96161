"""The names that certificates prove: SPIFFE IDs, `spiffe://<mesh>/service/<name>`.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md: a trust domain is lower case, a path is taken as written.
"""

import re

_MESH = r"[a-z0-9._-]{1,100}"
_SERVICE = r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?"
_ID = re.compile(f"spiffe://({_MESH})/service/({_SERVICE})", re.ASCII)


def spiffe_id(mesh: str, service: str) -> str:
    """`spiffe_id("mesh", "reviews")` is `spiffe://mesh/service/reviews`. Raises ValueError for what is no name."""
    text = f"spiffe://{mesh.lower()}/service/{service.lower()}"
    if not _ID.fullmatch(text):
        raise ValueError(
            f"{service!r} in mesh {mesh!r} is no name: use letters, digits, '.', '_' and '-', such as reviews"
        )
    return text


def parse_spiffe_id(text: str) -> tuple[str, str]:
    """(mesh, service) of such an ID. Raises ValueError for any other text, IDs of other systems included."""
    found = _ID.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no SPIFFE ID of a service: spiffe://MESH/service/NAME")
    return found[1], found[2]
