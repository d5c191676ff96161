"""Writes lines from the event loop to a file without ever waiting for the disk."""

import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

logger = logging.getLogger("mesh.access_log")

_MOST_WAITING = 200_000
_MOST_TOGETHER = 10_000
_FAREWELL = 5.0
_GATHER = 0.02
"""Seconds that lines are gathered before they are written together."""
_PIPE_AT_ONCE = 4096
"""Bytes that a pipe takes as one piece (PIPE_BUF), whoever else writes to it; a file takes any number."""


class LogWriter:
    """A thread writes what `write` gathered, many lines at a time, in order; `close` waits until all is written.

    A file that was moved or deleted (as logrotate does) is opened anew under its name. When the disk is so slow
    that 200,000 lines wait, further lines are dropped and counted, so that memory stays bounded.
    """

    def __init__(self, path: Path | None, stream: TextIO) -> None:
        """`path` None: write to `stream`. Raises OSError when the path cannot be opened."""
        self._path = path
        self._stream = stream
        self._file: TextIO = stream if path is None else _open(path)
        self._piped = path is None and _is_pipe(stream)
        self._lines: list[str] = []
        self._waiting = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._dropped = 0
        self._complained = False
        self._homeless = False
        self._thread = threading.Thread(target=self._run, name="mesh access log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Take one line, without its line break."""
        lines = self._lines
        if len(lines) >= _MOST_WAITING:
            self._dropped += 1
            return
        lines.append(line)
        if not self._waiting:
            # Waking a thread costs more than a line; one wake-up gathers all that follows it at once.
            self._waiting = True
            self._wake.set()

    def close(self) -> None:
        """Write all that was taken, then end."""
        self._closing.set()
        self._wake.set()
        self._thread.join(_FAREWELL)
        if self._dropped:
            logger.warning(f"access log: {self._dropped} lines dropped, the disk was too slow")

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(_GATHER)
            self._wake.clear()
            # Lines that arrive from here on wake the thread again.
            self._waiting = False
            # And only they do: a thread that wrote whatever came meanwhile would never rest under load, and each of
            # its writes takes the interpreter from the event loop.
            self._flush(len(self._lines))
        self._flush(len(self._lines))
        if self._path is not None:
            self._file.close()

    def _flush(self, count: int) -> None:
        lines = self._lines
        while count > 0:
            # Two steps that no other thread can come between, each: what it appends meanwhile stays behind these.
            some = lines[: min(count, _MOST_TOGETHER)]
            del lines[: len(some)]
            count -= len(some)
            for text in _pieces(some) if self._piped else ("\n".join(some) + "\n",):
                self._put(text)

    def _put(self, text: str) -> None:
        try:
            if self._path is not None:
                self._reopen_if_moved(self._path)
            self._file.write(_writable(text, self._file.encoding or "utf-8"))
            self._file.flush()
        except (OSError, ValueError) as error:
            self._complain(error)
        else:
            self._complained = self._homeless

    def _reopen_if_moved(self, path: Path) -> None:
        opened = os.fstat(self._file.fileno())
        try:
            named = os.stat(path)
        except FileNotFoundError:
            named = None
        self._homeless = False
        if named is None or (named.st_ino, named.st_dev) != (opened.st_ino, opened.st_dev):
            try:
                fresh = _open(path)
            except OSError as error:
                # Until it can be opened again, lines go on to where the old one went.
                self._homeless = True
                self._complain(error)
            else:
                self._file.close()
                self._file = fresh

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            logger.error(f"access log: cannot write {self._path or 'standard output'}: {error}")


def _pieces(lines: list[str]) -> Iterator[str]:
    """To write one by one: the lines of other processes that write there too must not stand within one of these."""
    start = size = 0
    for index, line in enumerate(lines):
        length = len(line) + 1
        if size and size + length > _PIPE_AT_ONCE:
            yield "\n".join(lines[start:index]) + "\n"
            start, size = index, 0
        size += length
    yield "\n".join(lines[start:]) + "\n"


def _is_pipe(stream: TextIO) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _open(path: Path) -> TextIO:
    return path.open("a", encoding="utf-8")


def _writable(text: str, encoding: str) -> str:
    """The text with JSON's escapes in the place of what the file cannot hold, such as bytes that were no UTF-8."""
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)
