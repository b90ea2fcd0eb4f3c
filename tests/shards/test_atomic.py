"""Files replaced whole, by many threads at once, and names by which what is left over is known."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.atomic import remove_dead_temporary_files, remove_temporary_files, temporary_path, write_atomically
from shards.work import replace_file

WRITERS = [write_atomically, replace_file]


@pytest.mark.parametrize("write", WRITERS)
def test_threads_that_write_one_file_do_not_meet(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has written all of its bytes before any of them renames its file."""
    together, replace = threading.Barrier(4, timeout=30), os.replace

    def replace_together(source: Path, target: Path) -> None:
        together.wait()
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_together)
    written = [bytes([number]) * (1000 + number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: write(tmp_path / "file", data), written))
    assert (tmp_path / "file").read_bytes() in written
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_cannot_take_its_place_leaves_the_old_one_and_nothing_else(
    write: Callable[[Path, bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "file", b"old")

    def fail(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(OSError) as told:
            write(tmp_path / "file", b"new")
    assert told.value.filename == str(tmp_path / "file")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_what_dead_processes_left_is_known_by_its_name_and_what_others_write_is_not_touched(tmp_path: Path) -> None:
    program = "import sys, pathlib, shards.atomic as a; p = pathlib.Path(sys.argv[1]) / 'train-000000.tar'\n"
    program += "for _ in range(2): a.temporary_path(p).touch()"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    mine = [temporary_path(tmp_path / "train-000000.tar") for _ in range(2)]
    for path in mine:
        path.touch()
    assert len(list(tmp_path.iterdir())) == 4
    assert remove_dead_temporary_files(tmp_path) == 2
    assert sorted(tmp_path.iterdir()) == sorted(mine)
    assert remove_temporary_files(tmp_path) == 2
