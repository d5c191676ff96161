"""Which Redis and which mesh a proxy belongs to, and by what certificates: the options mesh_redis... and mesh_name."""

import logging
import os

from mitmproxy import ctx, exceptions
from mitmproxy.addonmanager import Loader

from control.store import Store, StoreError
from control.store_server import TLS_FILES, with_tls_files

logger = logging.getLogger("mesh.policy_feed")

DEFAULT_REDIS = "redis://127.0.0.1:6379/0"
REDIS_OPTIONS = frozenset(("mesh_redis", *(f"mesh_redis_{name}" for name in TLS_FILES)))
_TOLD = {
    "ca": "File with the CA of a rediss:// server's certificate; empty: the system's.",
    "cert": "File with the certificate that a rediss:// server is shown.",
    "key": "File with that certificate's key.",
}


def add_options(loader: Loader) -> None:
    redis = os.environ.get("MITMESH_REDIS", DEFAULT_REDIS)
    loader.add_option("mesh_redis", str, redis, "Redis that holds the mesh's policy, as a URL.")
    for name, told in _TOLD.items():
        loader.add_option(f"mesh_redis_{name}", str, os.environ.get(_variable(name), ""), told)
    loader.add_option(
        "mesh_name", str, os.environ.get("MITMESH_NAME", "mesh"), "The mesh whose policy is read."
    )


def redis_url() -> str:
    """mesh_redis, with the files of TLS in it where it is rediss://."""
    url: str = ctx.options.mesh_redis
    files = {name: str(getattr(ctx.options, f"mesh_redis_{name}")) for name in TLS_FILES}
    try:
        return with_tls_files(url, files)
    except ValueError:
        return url


def check() -> None:
    """Raises OptionsError for a URL or files that cannot be right."""
    try:
        Store(redis_url())
    except StoreError as error:
        raise exceptions.OptionsError(f"mesh_redis: {error}") from None


def warn() -> None:
    """Of files that are not used. Not in `check`: the options of a command line arrive one after the other."""
    options = ctx.options
    files = {name: str(getattr(options, f"mesh_redis_{name}")) for name in TLS_FILES}
    # Given in the environment they may be for others.
    own = {name: file for name, file in files.items() if file != os.environ.get(_variable(name), "")}
    try:
        with_tls_files(options.mesh_redis, files if options.mesh_redis.startswith("rediss") else own)
    except ValueError as error:
        logger.warning(f"mesh_redis_{next(iter(own), 'key')}: not used: {error}")


def _variable(name: str) -> str:
    return f"MITMESH_REDIS_{name.upper()}"
