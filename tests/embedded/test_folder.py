"""Hints and locks in the folder of an embedded server."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from rehydrate.embedded.folder import (
    EmbeddedError,
    FolderLock,
    port_number,
    read_hint,
    write_hint,
)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"x", b"\xff\xfe", b"0", b"65536", b"-1", b"1 2", b"1e3", b"\0" * 4096]
)
def test_anything_odd_counts_as_absent(tmp_path, content):
    (tmp_path / "port").write_bytes(content)
    assert read_hint(tmp_path / "port", port_number) is None


def test_what_cannot_be_read_counts_as_absent(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("folder", "loop", "none", "none/none"):
        assert read_hint(tmp_path / name, port_number) is None


def test_a_hint_is_written_by_rename_and_private(tmp_path):
    path = tmp_path / "port"
    write_hint(path, "8081")
    before = path.open()
    write_hint(path, "8082\n")
    assert read_hint(path, port_number) == 8082
    with before:
        assert before.read() == "8081", "the file that a reader has open is not changed"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["port"]


def test_a_hint_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "port").mkdir()
    with pytest.raises(OSError, match="port"):
        write_hint(tmp_path / "port", "1")
    assert [each.name for each in tmp_path.iterdir()] == ["port"]


def test_concurrent_writers_leave_one_whole_hint(tmp_path):
    texts = [str(number) * 10_000 for number in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_hint(tmp_path / "hint", text), texts))
    assert read_hint(tmp_path / "hint", str) in texts


def test_a_lock_has_one_holder(tmp_path):
    one, other = FolderLock(tmp_path / "lock"), FolderLock(tmp_path / "lock")
    assert one.acquire()
    assert one.acquire(), "again"
    one.write("a longer text")
    one.write("mine")
    assert not other.acquire()
    assert (one.held, other.held) == (True, False)
    assert one.path.read_text() == "mine"
    one.release()
    one.release()
    assert other.acquire()
    assert one.path.read_text() == "", "what the last holder wrote does not hold any more"
    other.release()
    with pytest.raises(EmbeddedError, match="not locked"):
        other.fileno()


def test_a_lock_in_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "none" / "lock").acquire()
