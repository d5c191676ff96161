"""Stands in for a mesh that was taken away from a running proxy, by an edit that failed or a file that is gone."""

from mitmproxy import http

from addons.answers import own_answer

TEXT = "the mesh was unloaded from this proxy, see its log; load addons/mesh.py again or restart the proxy"


class Guard:
    """Nothing passes that the mesh has not routed, until it is loaded again."""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        # Not streamed either, which would send it on before it is answered.
        flow.request.stream = False
        if flow.response is None:
            own_answer(flow, None, 503, "NP", TEXT)

    def http_connect(self, flow: http.HTTPFlow) -> None:
        # What is in a tunnel may be no HTTP, and is not seen again then.
        own_answer(flow, None, 503, "NP", TEXT)
