"""Claims, failures and turns: what lets tasks on machines that share only a file system share a dataset."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.claims import (
    LEASE_SECONDS,
    Claim,
    end_claims,
    is_done,
    read_claim,
    read_claims,
    release_claim,
    renew_claim,
    take_shard,
)
from shards.processes import host_tag, is_surely_dead
from shards.work import read_failures
from tests.shards.samples import claim


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def grow_old(directory: Path, index: int, seconds: float) -> None:
    path = directory / ".work" / f"train-{index:06d}.claim.json"
    os.utime(path, (time.time() - seconds,) * 2)


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def test_only_the_dead_of_this_host_are_surely_dead() -> None:
    assert not is_surely_dead(host_tag(), os.getpid())
    assert is_surely_dead(host_tag(), dead_pid())
    assert not is_surely_dead("elsewhere-01234567", dead_pid()), "of another host nothing is known"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not is_surely_dead(host_tag(), process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert is_surely_dead(host_tag(), process.pid), "a zombie is dead"


# ---------------------------------------------------------------------------------------------------------------------
# Claims


def test_a_shard_goes_to_one_of_many(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pid: take_shard(folder, claim(0, pid=pid)), range(1, 9)))
    assert sorted(answers) == ["held"] * 7 + ["taken"]
    holder = read_claim(folder, 0)
    assert holder is not None and answers[holder.pid - 1] == "taken"
    assert take_shard(folder, claim(0, pid=holder.pid)) == "taken", "one's own is no hindrance"
    release_claim(folder, claim(0, pid=holder.pid + 1))
    assert read_claim(folder, 0) is not None, "only its holder gives it back"
    release_claim(folder, holder)
    assert read_claims(folder) == []
    assert read_failures(folder) == []


def test_the_same_pid_on_another_host_is_somebody_else(folder: Path) -> None:
    ours, theirs = claim(0), claim(0, host="nowhere-76543210")
    assert take_shard(folder, ours) == "taken"
    assert take_shard(folder, theirs) == "held"
    release_claim(folder, theirs)
    assert end_claims(folder, theirs.host, theirs.pid, "it was lost") is None
    assert [found.host for found in read_claims(folder)] == [ours.host] and read_failures(folder) == []


def test_a_claim_lasts_as_long_as_it_is_renewed(folder: Path) -> None:
    assert take_shard(folder, claim(0)) == "taken"
    grow_old(folder, 0, LEASE_SECONDS - 20)
    assert take_shard(folder, claim(0, pid=8)) == "held"
    renew_claim(folder, claim(0))
    found = read_claim(folder, 0)
    assert found is not None and found.age_seconds < 20
    grow_old(folder, 0, LEASE_SECONDS + 20)
    assert take_shard(folder, claim(0, pid=8)) == "taken"
    renew_claim(folder, claim(0))  # the first one was only asleep
    found = read_claim(folder, 0)
    assert found is not None and found.pid == 8
    (failure,) = read_failures(folder)
    assert failure.index == 0 and "pid 7 on elsewhere" in failure.message


def test_a_claim_that_is_gone_is_made_again_unless_the_shard_is_done(folder: Path, dataset: Path) -> None:
    for index in (0, 1):
        assert take_shard(folder, claim(index)) == "taken"
    grow_old(folder, 0, LEASE_SECONDS + 20)
    assert take_shard(folder, claim(0, pid=8)) == "taken"
    assert [found.index for found in read_claims(folder)] == [0], "it was taken for lost, with all its claims"
    for index in (0, 1):
        renew_claim(folder, claim(index))  # it was only asleep
    assert [(found.index, found.pid) for found in read_claims(folder)] == [(0, 8), (1, 7)]
    (dataset / ".work").mkdir()  # others are at work
    renew_claim(dataset, claim(1))
    assert read_claims(dataset) == []


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_machine_whose_clock_is_wrong_takes_what_is_void_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    assert take_shard(folder, claim(0)) == "taken"
    assert take_shard(folder, claim(1)) == "taken"
    grow_old(folder, 1, LEASE_SECONDS + 20)
    wrong = time.time() + 3600 * hours
    monkeypatch.setattr(time, "time", lambda: wrong)
    assert take_shard(folder, claim(0, pid=8)) == "held"
    assert take_shard(folder, claim(1, pid=8)) == "taken"


def test_a_claim_from_before_the_disks_clock_was_set_back_is_as_old_as_it_seems(folder: Path) -> None:
    for index, seconds in ((0, -LEASE_SECONDS + 60), (1, -3600)):
        assert take_shard(folder, claim(index)) == "taken"
        grow_old(folder, index, seconds)
    assert [found.is_void for found in read_claims(folder)] == [False, True]
    assert min(found.age_seconds for found in read_claims(folder)) >= 0
    assert take_shard(folder, claim(0, pid=8)) == "held"
    assert take_shard(folder, claim(1, pid=8)) == "taken"


@pytest.mark.parametrize("field", [{"pid": "x"}, {"pid": 10**30}, {"pid": 0}, {"groups_per_second": "x"}, {"host": 5}])
def test_a_claim_that_cannot_be_one_is_none(folder: Path, field: dict[str, object]) -> None:
    assert take_shard(folder, claim(0)) == "taken"
    path = folder / ".work/train-000000.claim.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **field}))
    assert read_claims(folder) == []
    assert take_shard(folder, claim(0, pid=8)) == "taken"


def test_who_looks_tells_ages_by_the_disks_clock_and_by_its_own_where_it_may_not_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take_shard(folder, claim(0)) == "taken"
    wrong = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: wrong)
    assert [found.is_void for found in read_claims(folder)] == [False]

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "utime", refuse)
    assert [found.is_void for found in read_claims(folder)] == [True]


def test_what_the_dead_held_is_free_at_once_and_recorded_where_they_were(folder: Path) -> None:
    pid = dead_pid()
    for index, began in ((5, 1.0), (2, 2.0)):  # 2 was taken ahead, while 5 was written
        assert take_shard(folder, claim(index, host=host_tag(), pid=pid, began=began)) == "taken"
    stale = folder / "data" / f".train-000005.tar.{host_tag()}.{pid}.tmp"
    others = folder / "data" / ".train-000006.tar.elsewhere-01234567.7.tmp"
    mine = folder / "data" / f".train-000007.tar.{host_tag()}.{os.getpid()}.tmp"
    for path in (stale, others, mine):
        path.write_bytes(b"half")
    assert take_shard(folder, claim(2)) == "taken"
    assert [found.index for found in read_claims(folder)] == [2]
    assert [(failure.index, failure.where) for failure in read_failures(folder)] == [
        (5, f"task 1 of 2, cuda:0, pid {pid} on {host_tag().rpartition('-')[0]}")
    ]
    assert not stale.exists() and others.exists() and mine.exists()


def test_failures_add_up_in_one_line_each(folder: Path) -> None:
    for attempt in range(3):
        assert take_shard(folder, claim(1)) == "taken"
        assert end_claims(folder, claim(1).host, 7, f"out of\nmemory {attempt}") == 1
    assert end_claims(folder, claim(1).host, 7, "nothing") is None
    assert [failure.message for failure in read_failures(folder)] == [f"out of memory {i}" for i in range(3)]
    assert take_shard(folder, claim(1)) == "taken"
    end_claims(folder, claim(1).host, 7, None)
    assert len(read_failures(folder)) == 3, "who leaves in good order has not failed"


def test_a_finished_shard_is_not_claimed(dataset: Path) -> None:
    assert take_shard(dataset, claim(1)) == "done"
    assert not (dataset / ".work").exists()
    longer = Claim(index=2, count=4, host="elsewhere-01234567", pid=7, device="cpu", task="", began=1.0)
    assert not is_done(dataset, 2, 4) and take_shard(dataset, longer) == "taken", "it holds two groups, not four"
    (dataset / "data/train-000001.tar").unlink()
    assert not is_done(dataset, 1, 4) and take_shard(dataset, claim(1)) == "taken", "its tar was lost"


# ---------------------------------------------------------------------------------------------------------------------
# Turns


def test_a_claim_that_cannot_be_renewed_is_no_error_and_one_that_cannot_be_made_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert take_shard(folder, claim(0)) == "taken"

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    renew_claim(folder, claim(0))
    with pytest.raises(OSError, match=r"No space left on device: .*train-000001\.claim\.json"):
        take_shard(folder, claim(1))
