"""Which headers are taken from requests that come from outside."""

from addons.mesh_headers import without_forged


def test_what_means_something_to_the_mesh_is_dropped_and_nothing_else():
    fields = (
        (b"host", b"web"),
        (b"X-Mesh-Fault", b"delay=2s"),
        (b"x-mesh-colour", b"red"),
        (b"x-mesh-fault", b"a"),
    )
    assert without_forged(fields) == ((b"host", b"web"), (b"x-mesh-colour", b"red"))


def test_nothing_is_made_anew_for_most_requests():
    fields = ((b"host", b"web"), (b"accept", b"*/*"))
    assert without_forged(fields) is fields
