"""`explain` knows what the proxy does to requests, or does in the service's place."""

from control.policy.explain import Explanation, explain
from tests.flows import snapshot
from tests.test_explain import request

POLICY = """\
service: shop
endpoints: {v1: ["10.0.0.1:80"], v2: ["10.0.0.2:80"]}
to: v1
mirror: {to: v2, percent: 10}
rate_limit: {requests: 5, per: 1s}
routes:
  - name: api
    match: {path: {prefix: /api}}
    rewrite: {prefix: /v2}
    cors: {allow_origins: "https://a.example"}
    rate_limit: {requests: 1, per: 1m, by: {header: x-user}, scope: mesh}
  - name: old
    match: {path: {prefix: /old}}
    redirect: {prefix: /api, scheme: https}
"""


def explained(target: str) -> Explanation:
    return explain(snapshot(POLICY), request(target, "shop"))


def test_what_acts_on_the_way() -> None:
    explanation = explained("/api/x?y")
    data = explanation.data()
    assert (data["rewrite"], data["target"]) == ({"prefix": "/v2"}, "/v2/x?y")
    assert data["mirror"] == {"to": "v2", "percent": 10}
    assert data["rate_limit"] == {"requests": 1, "per": "1m", "by": {"header": "x-user"}, "scope": "mesh"}
    assert data["from"]["rate_limit"] == "shop: api"
    assert data["from"]["mirror"] == "shop"
    lines = explanation.lines()
    for line in (
        "rewrite          {prefix: /v2}: the service sees /v2/x?y   (from shop: api)",
        "mirror           {to: v2, percent: 10}   (from shop)",
        "rate_limit       {requests: 1, per: 1m, by: {header: x-user}, scope: mesh}   (from shop: api)",
        'cors             {allow_origins: [{exact: "https://a.example"}]}   (from shop: api)',
    ):
        assert line in lines


def test_where_a_redirect_leads() -> None:
    explanation = explained("/old/x?y")
    data = explanation.data()
    assert (data["redirect"], data["location"]) == (
        {"scheme": "https", "prefix": "/api"},
        "https://shop/api/x?y",
    )
    assert (
        "answer           from the proxy: 302 to https://shop/api/x?y   (from shop: old)"
        in explanation.lines()
    )


def test_nothing_is_said_of_what_nobody_asked_for() -> None:
    data = explain(snapshot("service: shop"), request("/", "shop")).data()
    assert not data.keys() & {"rewrite", "redirect", "respond", "cors", "mirror", "rate_limit"}
