"""Lines from many writers to a file: all of them, in order, whatever happens to the file."""

import io
import os
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons import log_writer
from addons.log_writer import LogWriter
from tests.mesh_process import eventually


def test_everything_in_order_when_it_closes(tmp_path):
    path = tmp_path / "log"
    writer = LogWriter(path, io.StringIO())
    for number in range(50_000):
        writer.write(str(number))
    writer.close()
    assert path.read_text().splitlines() == [str(number) for number in range(50_000)]


def test_lines_of_threads_stay_whole(tmp_path):
    path = tmp_path / "log"
    writer = LogWriter(path, io.StringIO())

    def write(name: str) -> None:
        for number in range(2000):
            writer.write(f"{name} {number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    lines = path.read_text().splitlines()
    for name in "abcd":
        assert [line for line in lines if line[0] == name] == [f"{name} {number}" for number in range(2000)]


def test_what_is_there_stays(tmp_path):
    path = tmp_path / "log"
    path.write_text("before\n")
    writer = LogWriter(path, io.StringIO())
    writer.write("after")
    writer.close()
    assert path.read_text() == "before\nafter\n"


def test_a_moved_file_is_opened_anew(tmp_path):
    path = tmp_path / "log"
    writer = LogWriter(path, io.StringIO())
    writer.write("one")
    eventually(lambda: "one" in path.read_text())
    path.rename(tmp_path / "log.1")
    writer.write("two")
    eventually(lambda: path.exists() and "two" in path.read_text())
    writer.close()
    assert (tmp_path / "log.1").read_text() == "one\n"
    assert path.read_text() == "two\n"


def test_without_its_folder_it_goes_on_where_it_was(tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()
    writer = LogWriter(folder / "log", io.StringIO())
    away = tmp_path / "away"
    folder.rename(away)
    for number in range(3):
        writer.write(f"meanwhile {number}")
        eventually(lambda number=number: f"meanwhile {number}" in (away / "log").read_text())
    assert caplog.text.count("cannot write") == 1
    folder.mkdir()
    writer.write("again")
    writer.close()
    assert (folder / "log").read_text() == "again\n"


class Full(io.StringIO):
    """A disk that is full for a while."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_full_disk_is_told_once_and_does_not_end_it(caplog):
    stream = Full()
    writer = LogWriter(None, stream)
    for number in range(3):
        writer.write(f"lost {number}")
        eventually(lambda: not writer._lines)
    eventually(lambda: "No space left on device" in caplog.text)
    stream.full = False
    writer.write("kept")
    writer.close()
    assert stream.getvalue() == "kept\n"
    assert caplog.text.count("cannot write standard output") == 1


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8", b"\xc3\xa4 \\udcff\n"), ("ascii", b"\\xe4 \\udcff\n"), ("latin-1", b"\xe4 \\udcff\n")],
)
def test_what_a_stream_cannot_hold_is_escaped(encoding, said):
    buffer = io.BytesIO()
    writer = LogWriter(None, io.TextIOWrapper(buffer, encoding=encoding))
    writer.write("ä \udcff")
    writer.close()
    assert buffer.getvalue() == said


def test_memory_stays_bounded(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(log_writer, "_MOST_WAITING", 10)
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as stream:
        writer = LogWriter(None, stream)
        # A reader that is stuck: the pipe is full, then what waits is full.
        for _ in range(40):
            writer.write("x" * 10_000)
        eventually(lambda: writer._dropped > 0 or writer.write("x" * 10_000))
        assert len(writer._lines) <= 10
        thread = threading.Thread(target=reader.read)
        thread.start()
        writer.close()
        stream.close()
        thread.join()
    assert "lines dropped, the disk was too slow" in caplog.text


@given(st.lists(st.integers(0, 5000).map("x".__mul__), min_size=1, max_size=12))
def test_a_pipe_gets_whole_lines_in_pieces_that_nobody_can_come_between(lines):
    pieces = list(log_writer._pieces(lines))
    assert "".join(pieces) == "".join(line + "\n" for line in lines)
    for piece, following in pairwise([*pieces, ""]):
        assert piece.endswith("\n")
        assert len(piece) <= 4096 or piece.count("\n") == 1
        # And no more of them than need be.
        assert not following or len(piece) + following.index("\n") + 1 > 4096


def test_a_path_that_cannot_be_opened(tmp_path):
    with pytest.raises(IsADirectoryError):
        LogWriter(tmp_path, io.StringIO())
