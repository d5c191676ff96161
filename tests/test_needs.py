"""A hook that needs a policy's field is called in the fast lane where that field is set, and nowhere else."""

import pytest

from addons.needs import needs
from tests.engine_proxy import both
from tests.flows import snapshot


def route_of(policy: str):
    return snapshot(f"service: web\n{policy}").services["web"].own


@pytest.mark.parametrize(
    ("names", "policy", "wanted"),
    [
        (("faults",), "", False),
        (("faults",), "faults: [{abort: 503}]", True),
        (("retry",), "retry: 2", True),
        (("retry", "faults"), "faults: [{abort: 503}]", True),
        (("retry", "faults"), "timeout: 3s", False),
        (("timeout",), "timeout: 3s", True),
        (("timeout",), "timeout: 0", False),
        ((), "retry: 2", False),
    ],
)
def test_a_field_that_is_off_is_not_needed(names, policy, wanted):
    @needs(*names)
    def hook() -> None: ...

    assert hook.mesh_wanted(route_of(policy)) is wanted
    assert hook.mesh_wanted(None) is False


def test_a_field_that_no_route_has_is_told_when_the_feature_is_loaded():
    with pytest.raises(TypeError, match="no field retries"):
        needs("retry", "retries")


class Noting:
    """A feature with a hook for every event, some of which need a field."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @needs("retry")
    def requestheaders(self, flow) -> None:
        # Nobody knows yet which route it will be.
        self.calls.append("requestheaders")

    @needs("request_headers")
    def mesh_forward(self, flow) -> None:
        self.calls.append("mesh_forward")

    @needs("timeout")
    def mesh_attempt(self, flow, attempt) -> None:
        self.calls.append("mesh_attempt")

    @needs("timeout", "retry")
    def mesh_attempt_end(self, flow, attempt) -> None:
        self.calls.append("mesh_attempt_end")

    @needs("retry")
    def mesh_forwarded(self, flow) -> None:
        self.calls.append("mesh_forwarded")

    @needs("response_headers")
    def responseheaders(self, flow) -> None:
        self.calls.append("responseheaders")

    def response(self, flow) -> None:
        self.calls.append("response")


_ALWAYS = ["requestheaders", "response"]


@pytest.mark.parametrize(
    ("policy", "called"),
    [
        ("", _ALWAYS),
        ("timeout: 5s", ["requestheaders", "mesh_attempt", "mesh_attempt_end", "response"]),
        ("retry: 2", ["requestheaders", "mesh_attempt_end", "mesh_forwarded", "response"]),
        ("response_headers: {set: {x-a: b}}", ["requestheaders", "responseheaders", "response"]),
        ("request_headers: {set: {x-a: b}}", ["requestheaders", "mesh_forward", "response"]),
        ("routes: [{match: {path: /other}, retry: 2}]", _ALWAYS),
    ],
)
async def test_what_is_called_for_an_exchange(policy, called):
    async with both(policy=policy) as (proxy, _):
        noting = Noting()
        proxy.master.addons.add(noting)
        client = await proxy.connect(b"GET http://up/ HTTP/1.1\r\nhost: up\r\n\r\n")
        assert (await client.answer())[0] == 200
        await proxy.idle()
        assert noting.calls == called
