"""mitmesh schema: the policy language for editors."""

from control.commands.output import say_json


def schema() -> None:
    """Print the JSON Schema of the policy language, for editors."""
    from control.policy.schema import json_schema

    say_json(json_schema())
