"""From bytes to policies and back: files and standard input, the stored form, and what `mitmesh get` prints."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import yaml
from pydantic import ValidationError

from control.policy.errors import PolicyErrors, Problem
from control.policy.model import Policy


@dataclass(frozen=True)
class Document:
    """One policy and where it was read: the file and the line on which the document starts."""

    policy: Policy
    file: str
    line: int


def read_bytes(data: bytes, file: str) -> list[Document]:
    """The documents of YAML or JSON text in UTF-8. Raises PolicyErrors with every problem in it."""
    try:
        raws = list(yaml.load_all(data.decode(), Loader=yaml.CSafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyErrors([Problem(file, None, "", "", str(error))]) from None
    documents = []
    problems: list[Problem] = []
    for raw in raws:
        try:
            documents.append(Document(Policy.model_validate(raw), file, 1))
        except ValidationError as error:
            problems += _problems(error, file)
    if problems:
        raise PolicyErrors(problems)
    return documents


def read_source(source: str, stdin: BinaryIO) -> list[Document]:
    """The documents of a file, of `-` (standard input) or of every YAML and JSON file below a directory.

    Raises PolicyErrors with the problems of all files.
    """
    if source == "-":
        return read_bytes(stdin.read(), "stdin")
    path = Path(source)
    files = sorted(p for p in path.rglob("*") if p.suffix in (".yaml", ".yml", ".json")) if path.is_dir() else [path]
    documents = []
    problems: list[Problem] = []
    for each in files:
        try:
            documents += read_bytes(each.read_bytes(), str(each))
        except PolicyErrors as errors:
            problems += errors.problems
        except OSError as error:
            problems.append(Problem(str(each), None, "", "", f"cannot be read: {error.strerror}"))
    if problems:
        raise PolicyErrors(problems)
    return documents


def normalize(policy: Policy) -> str:
    """The one JSON text of a policy: what Redis holds, and what two policies are compared by."""
    return json.dumps(policy.document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parse_stored(service: str, text: str) -> Policy:
    """The policy of one stored value. Raises PolicyErrors (file `redis`) if it is none, or another service's."""
    try:
        policy = Policy.model_validate(json.loads(text))
    except ValidationError as error:
        raise PolicyErrors(_problems(error, "redis")) from None
    except ValueError as error:
        raise PolicyErrors([Problem("redis", None, service, "", f"not JSON: {error}")]) from None
    if policy.service != service:
        message = f"the document stored for {service} is {policy.service}'s: apply {service} again or delete it"
        raise PolicyErrors([Problem("redis", None, service, "service", message)])
    return policy


def to_yaml(policies: Iterable[Policy]) -> str:
    """The policies as YAML documents, in the order given; reads back to the same policies."""
    return yaml.safe_dump_all([policy.document() for policy in policies], sort_keys=False, allow_unicode=True)


def _problems(error: ValidationError, file: str) -> list[Problem]:
    return [Problem(file, None, "", ".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
