"""mitmesh version: what is installed."""

from control.commands.options import Json
from control.commands.output import say, say_json


def versions() -> dict[str, str]:
    """Versions of mitmesh, Python and mitmproxy; none of them is imported to find out."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    def of(package: str, otherwise: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return otherwise

    return {
        "mitmesh": of("mitmesh", "checkout"),
        "python": platform.python_version(),
        "mitmproxy": of("mitmproxy", "not installed"),
    }


def version(as_json: Json = False) -> None:
    """Print the versions of mitmesh, Python and mitmproxy."""
    found = versions()
    if as_json:
        say_json(found)
    else:
        say(f"mitmesh {found['mitmesh']} (Python {found['python']}, mitmproxy {found['mitmproxy']})")
