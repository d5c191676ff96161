"""`mitmesh proxy` imports those of mitmproxy's addons that it loads, and the others still work for who asks for them."""

import subprocess
import sys

import pytest

from tests.cli import ROOT

BEGIN = "import addons.lean_proxy, sys\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{BEGIN}{code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_the_proxy_never_loads_is_not_imported():
    done = run(
        "print({'flask', 'ldap3', 'passlib', 'mitmproxy.addons.onboarding'} & set(sys.modules) or 'none')"
    )
    assert done.stdout == "none\n", done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "from mitmproxy.addons import default_addons\nassert len(default_addons()) > 30",
        "from mitmproxy.addons import block\nassert block.Block",
        "import mitmproxy.addons.mapremote as addon\nassert addon.MapRemote",
        "from mitmproxy import addons\nassert not hasattr(addons, 'nothing')\nassert addons.default_addons",
        "import mitmproxy.addons\nassert mitmproxy.addons.__name__ == 'mitmproxy.addons' and mitmproxy.addons.__file__",
    ],
)
def test_a_script_gets_whatever_it_asks_for(code):
    done = run(code)
    assert done.returncode == 0, done.stderr
