"""Keeps a user at the version of a split that it was given, and gives a cookie to who has none."""

import random

from mitmproxy import http

from addons.exchange import Exchange, exchange_of
from addons.needs import needs
from control.policy.snapshot import CompiledRoute, Share

_NEW = "mesh_sticky"


def share_of(
    flow: http.HTTPFlow, exchange: Exchange, route: CompiledRoute, random_source: random.Random
) -> Share | None:
    """The share of who sent this request, for a route with `sticky`; by chance for who cannot be told apart."""
    sticky, facts = route.sticky, exchange.facts
    if sticky is None or facts is None:
        return route.pick_share(random_source)
    user = sticky.user(facts)
    if not user:
        if sticky.cookie is None:
            return route.pick_share(random_source)
        user = flow.metadata[_NEW] = f"{random_source.getrandbits(128):032x}"
    return route.shares[sticky.place(user)]


class StickySplits:
    """Who got a version without being known gets a name along with the answer."""

    @needs("sticky")
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        user = flow.metadata.get(_NEW)
        exchange = exchange_of(flow)
        if user is None or exchange is None or exchange.route is None or flow.response is None:
            return
        if (sticky := exchange.route.sticky) is not None:
            field = (b"set-cookie", sticky.set_cookie(user).encode())
            flow.response.headers.fields = (*flow.response.headers.fields, field)
