"""Importing one of mitmproxy's built-in addons imports all of them, Flask and LDAP included; here it does not.

13 MB of memory and half a second of each start are for addons that `mitmesh proxy` never loads. A script of the user's
that asks the package for more than its modules gets all that there is.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

_PACKAGE = "mitmproxy.addons"


class _Lazy(ModuleType):
    """The package, without having run its own code before somebody asks for what that makes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}")
        try:
            return importlib.import_module(f"{_PACKAGE}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{_PACKAGE}.{name}":
                raise
        if type(self) is _Lazy:
            self.__class__ = ModuleType  # type: ignore[assignment]
            assert self.__spec__ is not None
            assert self.__spec__.loader is not None
            self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def install() -> None:
    """To be called before anything imports the package; without effect if something has."""
    if _PACKAGE not in sys.modules and (spec := importlib.util.find_spec(_PACKAGE)) is not None:
        module = _Lazy(_PACKAGE)
        module.__spec__ = spec
        module.__path__ = list(spec.submodule_search_locations or ())
        module.__file__ = spec.origin
        sys.modules[_PACKAGE] = module
        sys.modules["mitmproxy"].addons = module  # type: ignore[attr-defined]
