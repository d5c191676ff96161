"""Writes lines from the event loop to a file without ever waiting for the disk."""

import contextlib
import logging
import os
import queue
import threading
from pathlib import Path
from typing import TextIO

logger = logging.getLogger("mesh.access_log")

_MOST_WAITING = 200_000
_FAREWELL = 5.0


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
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._dropped = 0
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="mesh access log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Take one line, without its line break."""
        if self._lines.qsize() < _MOST_WAITING:
            self._lines.put(line)
        else:
            self._dropped += 1

    def close(self) -> None:
        """Write all that was taken, then end."""
        self._lines.put(None)
        self._thread.join(_FAREWELL)
        if self._dropped:
            logger.warning(f"access log: {self._dropped} lines dropped, the disk was too slow")

    def _run(self) -> None:
        going = True
        while going:
            batch = [self._lines.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < 10_000:
                    batch.append(self._lines.get_nowait())
            going = None not in batch
            lines = [line for line in batch if line is not None]
            if lines:
                self._put("\n".join(lines) + "\n")
        if self._path is not None:
            self._file.close()

    def _put(self, text: str) -> None:
        try:
            self._reopen_if_moved()
            self._file.write(text)
            self._file.flush()
            self._complained = False
        except (OSError, ValueError) as error:
            if not self._complained:
                self._complained = True
                logger.error(f"access log: cannot write {self._path or 'standard output'}: {error}")

    def _reopen_if_moved(self) -> None:
        if self._path is None:
            return
        opened = os.fstat(self._file.fileno())
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            named = None
        if named is None or (named.st_ino, named.st_dev) != (opened.st_ino, opened.st_dev):
            self._file.close()
            self._file = _open(self._path)


def _open(path: Path) -> TextIO:
    return path.open("a", encoding="utf-8", errors="surrogateescape")
