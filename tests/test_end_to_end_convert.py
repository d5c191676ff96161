"""A Gateway API and an Istio document, applied as they are, at a real proxy."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import MITMESH, ROOT
from tests.mesh_process import World
from tests.test_convert_gateway import route
from tests.test_convert_istio import service
from tests.upstream import Upstream, saying


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), lean=True) as world:
        yield world


def apply(world: World, text: str) -> None:
    """As a person does."""
    subprocess.run(
        [*MITMESH, "apply", "-f", "-", "--wait", "20s", "--redis", world.valkey.url],
        cwd=ROOT,
        input=text,
        text=True,
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_an_http_route(world: World, tmp_path: Path) -> None:
    with Upstream(saying(body="one")) as one, Upstream(saying(body="two")) as two:
        apply(
            world,
            route(f"""
                hostnames: [shop.example]
                rules:
                - matches: [{{path: {{value: /api}}}}]
                  backendRefs: [{{name: 127.0.0.1, port: {one.port}}}]
                - matches: [{{path: {{value: /api}}, headers: [{{name: x-beta, value: "yes"}}]}}]
                  filters:
                  - {{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /v2}}}}}}
                  backendRefs: [{{name: 127.0.0.1, port: {two.port}}}]
                - matches: [{{path: {{type: Exact, value: /old}}}}]
                  filters: [{{type: RequestRedirect, requestRedirect: {{hostname: new.example, statusCode: 301}}}}]
            """),
        )
        assert world.get("http://shop.example/api/x").text == "one"
        assert world.get("http://shop.example/api/x", x_beta="yes").text == "two"
        assert world.get("http://shop.example/apis").status == 404
        moved = world.get("http://shop.example/old")
        assert (moved.status, moved.header("location")) == (301, "http://new.example/old")
        assert (one.targets(), two.targets()) == (["/api/x"], ["/v2/x"])


def test_a_virtual_service(world: World) -> None:
    with Upstream(saying(body="one")) as one, Upstream(saying(status=503)) as two:
        apply(
            world,
            service(f"""
                hosts: [books]
                http:
                - match: [{{uri: {{prefix: /rat}}}}]
                  fault: {{abort: {{httpStatus: 418, percentage: {{value: 100}}}}}}
                  route: [{{destination: {{host: 127.0.0.1, port: {{number: {one.port}}}}}}}]
                - match: [{{headers: {{end-user: {{prefix: ja}}}}}}]
                  route: [{{destination: {{host: 127.0.0.1, port: {{number: {two.port}}}}}}}]
                  retries: {{attempts: 2, retryOn: 5xx}}
                - route: [{{destination: {{host: 127.0.0.1, port: {{number: {one.port}}}}}}}]
                  headers: {{response: {{set: {{x-by: mesh}}}}}}
            """),
        )
        assert world.get("http://books/rating").status == 418
        assert world.get("http://books/").header("x-by") == "mesh"
        failed = world.send("POST", "http://books/", b"x", {"end-user": "jason"})
        # Two retries after the first try, whatever the method.
        assert (failed.status, failed.header("x-mesh-attempts")) == (503, "3")
        assert (len(one.requests), len(two.requests)) == (1, 3)
