"""Turns: who changes the folder waits for whoever does, and says so where it takes long."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shards.turns
from shards.claims import (
    take_shard,
)
from shards.folder import lock_dataset
from shards.locks import take_lock, try_lock
from shards.turns import turn
from tests.shards.samples import claim

SECONDS_UNTIL_HOPELESS = 30


def test_a_turn_that_is_long_in_coming_is_told_once_with_who_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, told = threading.Event(), threading.Event()
    monkeypatch.setattr(shards.turns, "try_lock", lambda *request: (asked.set(), try_lock(*request))[1])
    monkeypatch.setattr(shards.turns, "take_lock", lambda *request: (told.set(), take_lock(*request))[1])
    with ThreadPoolExecutor(1) as pool:
        with turn(folder):
            asked.clear()
            quick = pool.submit(take_shard, folder, claim(0))
            assert asked.wait(SECONDS_UNTIL_HOPELESS)
        assert quick.result() == "taken"
    assert not told.is_set() and capsys.readouterr().err == "", "a short wait is nothing to tell"
    monkeypatch.setattr(shards.turns, "_SECONDS_UNTIL_WARNING", -1.0)
    with ThreadPoolExecutor(1) as pool:
        with turn(folder):
            late = pool.submit(take_shard, folder, claim(1))
            assert told.wait(SECONDS_UNTIL_HOPELESS)
            assert not late.done()
        assert late.result() == "taken"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder}/.turn: ") and f"which pid {os.getpid()}, host {os.uname().nodename} has" in line


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_in_one_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(code, os.strerror(code))

    (folder / ".lock").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for context, name in ((turn(folder), ".turn"), (lock_dataset(folder), ".lock")):
        with pytest.raises(OSError) as told, context:
            raise AssertionError("there is no lock")
        assert (told.value.errno, told.value.filename) == (errno.ENOLCK, f"{folder}/{name}")
