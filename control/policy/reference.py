"""The tables of docs/policy.md, made from the language itself: `python -m control.policy.reference` writes them anew.

A table stands between `<!-- fields of Retry -->` and `<!-- end -->`.
"""

import re
import sys
from pathlib import Path

from control.policy import model
from control.policy.parts import Part, defaults_of, names_of, phrase_of_field
from control.policy.places import shown

DOCUMENT = Path(__file__).parents[2] / "docs" / "policy.md"

_TABLE = re.compile(r"(<!-- fields of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(text: str) -> str:
    """The text with the rows of each table as the language is now. Raises KeyError for a part that there is not."""
    return _TABLE.sub(
        lambda found: found[1] + _table(vars(model)[found[2]], part_fields(found[2])) + found[3], text
    )


def part_fields(name: str) -> list[str]:
    """The fields that the table of a part lists: what documents and routes share has a table of its own."""
    part: type[Part] = vars(model)[name]
    shared = names_of(model.Settings).keys() if part in (model.Policy, model.Route) else ()
    return [field for field in names_of(part) if field not in shared]


def _table(part: type[Part], fields: list[str]) -> str:
    defaults = defaults_of(part)
    rows = ["| field | write | default | meaning |", "|---|---|---|---|"]
    for name in fields:
        field = names_of(part)[name]
        default = defaults.get(name)
        cells = (
            f"`{name}`",
            phrase_of_field(field),
            "required" if field.is_required() else f"`{_written(default)}`" if default else "",
            field.description or "",
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _written(value: object) -> str:
    text = shown(value)
    return re.sub(r'"([\w-]+)"', r"\1", text)


def main() -> None:
    """Writes the tables into docs/policy.md, or into the file that is named."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENT
    path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
