"""The article's demonstration, for real: `mitmesh demo`."""

from control.demo.story import run

__all__ = ["run"]
