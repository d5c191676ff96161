"""The bytes of policy files: one file, standard input, or every file below a directory; and their text."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LARGEST_FILE = 16 * 1024 * 1024
SUFFIXES = (".yaml", ".yml", ".json")


class NotTextError(Exception):
    """The bytes are no text that could hold a policy; says why, and on which line."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.line = line


def text_of(data: bytes) -> str:
    """The text of a file, without a byte order mark. Raises NotTextError."""
    if len(data) > LARGEST_FILE:
        raise NotTextError(None, f"larger than {LARGEST_FILE // 2**20}MiB: split it into several files")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}: save the file as UTF-8"
        raise NotTextError(line, message) from None


def contents(source: str, stdin: BinaryIO) -> Iterator[tuple[str, bytes | str]]:
    """Each file's name with its bytes, or with a sentence that says why they cannot be had."""
    if source == "-":
        yield "stdin", stdin.read(LARGEST_FILE + 1)
    elif not os.path.isdir(source):
        yield source, _content(source)
    else:
        found, unreadable = False, list[OSError]()
        for path in _below(source, unreadable):
            found = True
            yield path, _content(path)
        for error in unreadable:
            yield str(error.filename), _unreadable(error)
        if not found and not unreadable:
            yield (
                source,
                "no *.yaml, *.yml or *.json file in this directory: name another directory, or a file",
            )


def _below(directory: str, unreadable: list[OSError]) -> Iterator[str]:
    """The policy files below a directory in the order of their names. What starts with a dot is not looked at."""
    for parent, directories, files in os.walk(directory, onerror=unreadable.append):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(parent, name)
            if name.endswith(SUFFIXES) and not name.startswith(".") and os.path.isfile(path):
                yield path


def _content(path: str) -> bytes | str:
    try:
        with Path(path).open("rb") as file:
            return file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        return "no such file: name a file, a directory, or - for standard input"
    except (OSError, ValueError) as error:
        return _unreadable(error)


def _unreadable(error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot be read ({reason}): check the path and its permissions"
