"""What nobody answered goes nowhere."""

import pytest
from mitmproxy import flow as mitmproxy_flow
from mitmproxy.test import tflow

from addons.backstop import Backstop
from addons.exchange import Exchange, attach


def exchange(streamed: bool = False) -> Exchange:
    made = Exchange(None, "node", "", False)
    made.streamed = streamed
    return made


@pytest.mark.parametrize(
    ("of_the_mesh", "streamed", "caught"), [(False, False, True), (True, False, True), (True, True, False)]
)
def test_only_what_has_no_way_is_caught(of_the_mesh, streamed, caught):
    flow = tflow.tflow()
    if of_the_mesh:
        attach(flow, exchange(streamed))
    Backstop().request(flow)
    assert (flow.response is not None) is caught
    if caught:
        assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")


def test_an_answer_and_a_kill_stand():
    flow = tflow.tflow(resp=True)
    before = flow.response
    Backstop().request(flow)
    assert flow.response is before
    flow = tflow.tflow()
    flow.kill()
    Backstop().request(flow)
    assert flow.response is None
    flow.error = mitmproxy_flow.Error("an addon's")
    Backstop().request(flow)
    assert flow.response.status_code == 500
