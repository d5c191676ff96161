"""Plain data as YAML that every reader takes for the same: what YAML 1.1 or 1.2 could take for no text is quoted."""

import re
from collections.abc import Iterable
from typing import Any

import yaml

from control.policy.yaml_scalars import FLOAT, INTEGER, WORDS

# Ends of lines for some readers of YAML and not for others.
_BREAKS = re.compile("[\x85\u2028\u2029]")
_Base: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_Base):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, value: str) -> Any:
    if _BREAKS.search(value):
        style: str | None = '"'  # the one style in which these are escaped
    else:
        style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
for _tag, _pattern in (("int", INTEGER), ("float", FLOAT)):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})\Z", re.ASCII), list("+-.0123456789")
    )
for _word in filter(None, WORDS):
    _Dumper.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(re.escape(_word) + r"\Z"), [_word[0]])


def dump(documents: Iterable[Any]) -> str:
    """YAML documents with `---` between them; keys keep their order."""
    return str(
        yaml.dump_all(
            documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        )
    )
