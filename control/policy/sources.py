"""The bytes of policy files: one file, standard input, or every file below a directory; and their text."""

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
    elif not _is_directory(source):
        yield source, _content(source)
    else:
        found, unreadable = False, list[OSError]()
        for path in _below(Path(source), unreadable):
            found = True
            yield str(path), _content(path)
        for error in unreadable:
            yield str(error.filename), _unreadable(error)
        if not found and not unreadable:
            yield (
                source,
                "no *.yaml, *.yml or *.json file in this directory: name another directory, or a file",
            )


def _below(directory: Path, unreadable: list[OSError]) -> Iterator[Path]:
    """The policy files below a directory in the order of their names. What starts with a dot is not looked at."""
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        unreadable.append(error)
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _below(path, unreadable)
        elif path.suffix in SUFFIXES and path.is_file():
            yield path


def _is_directory(source: str) -> bool:
    try:
        return bool(source) and Path(source).is_dir()
    except (OSError, ValueError):
        return False  # reading it will say why


def _content(path: str | Path) -> bytes | str:
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
