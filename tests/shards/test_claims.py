"""Claims, failures and turns: what lets tasks on machines that share only a file system share a dataset."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shards.turns
from shards import Manifest, Recipe, RenderSettings, ShardWriter
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
from shards.folder import finish_dataset, finish_if_whole, lock_dataset, lock_holder, share_dataset
from shards.locks import take_lock, try_lock
from shards.processes import host_tag, is_surely_dead
from shards.turns import turn
from shards.work import WorkPlan, begin_work, join_work, read_failures, read_plan

RENDER = RenderSettings(batch_size=4, dtype="float32")
PLAN = WorkPlan(recipe_id="a" * 64, render=RENDER, num_groups=10, shard_size=4)
Build = Callable[..., Manifest]
SECONDS_UNTIL_HOPELESS = 30


def claim(index: int, *, host: str = "elsewhere-01234567", pid: int = 7, began: float = 1.0) -> Claim:
    return Claim(index=index, count=4, host=host, pid=pid, device="cuda:0", task="1 of 2", began=began)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path


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
        answers = list(pool.map(lambda pid: take_shard(folder, claim(0, pid=pid)), range(8)))
    assert sorted(answers) == ["held"] * 7 + ["taken"]
    holder = read_claim(folder, 0)
    assert holder is not None and answers[holder.pid] == "taken"
    assert take_shard(folder, claim(0, pid=holder.pid)) == "taken", "one's own is no hindrance"
    release_claim(folder, claim(0, pid=holder.pid + 1))
    assert read_claim(folder, 0) is not None, "only its holder gives it back"
    release_claim(folder, holder)
    assert read_claims(folder) == []
    assert read_failures(folder) == []


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
    renew_claim(dataset, claim(1))
    assert read_claims(dataset) == [] and not (dataset / ".work").exists()


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


# ---------------------------------------------------------------------------------------------------------------------
# The second copy


def write_copy(directory: Path, recipe: Recipe, size: int) -> ShardWriter:
    writer = ShardWriter(
        directory,
        recipe=recipe,
        render=RENDER,
        shard_index=0,
        first=0,
        count=4,
        class_names={3: "cat", 5: "dog", 8: "ship"},
    )
    for index in range(4):
        writer.add(
            label=recipe.classes[index % 3], images=[bytes(size + index)] * 2, views=[{"policy": "x", "std": 1.0}]
        )
    return writer


@pytest.mark.parametrize("other_bytes", [False, True], ids=["same bytes", "another device's bytes"])
def test_the_second_copy_of_a_shard_is_discarded(
    tmp_path: Path, recipe: Callable[..., Recipe], other_bytes: bool
) -> None:
    with write_copy(tmp_path, recipe(), 60 if other_bytes else 50) as second:
        with write_copy(tmp_path, recipe(), 50) as first:
            record = first.publish(environment={}, seconds=1.0, stages={})
        before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in (tmp_path / "data").glob("train-*")}
        assert second.publish(environment={}, seconds=9.0, stages={}) == record
    after = {path.name: (path.read_bytes(), path.stat().st_ino) for path in (tmp_path / "data").iterdir()}
    assert after == before
    assert hashlib.sha256((tmp_path / "data/train-000000.tar").read_bytes()).hexdigest() == record.sha256


def test_a_late_copy_of_a_shard_that_has_grown_is_discarded(tmp_path: Path, build: Build, build_shard, recipe) -> None:
    """A worker that slept through the end of a dataset of 10 groups, and its growth to 12."""
    build(tmp_path, 10)
    grown = build(tmp_path, 12)
    build_shard(tmp_path, recipe(), 2, 8, 2)
    assert finish_dataset(tmp_path, num_groups=12, shard_size=4) == grown
    assert grown.shards[2].count == 4


# ---------------------------------------------------------------------------------------------------------------------
# Plans, locks, the end


def test_tasks_agree_on_a_plan(folder: Path) -> None:
    other = WorkPlan(recipe_id="a" * 64, render=RENDER, num_groups=12, shard_size=4)
    join_work(folder, PLAN)
    join_work(folder, PLAN)
    assert read_plan(folder) == PLAN
    with pytest.raises(ValueError, match="with num_groups: 10 in the folder, 12 asked for"):
        join_work(folder, other)
    begin_work(folder, other)
    assert read_plan(folder) == other
    (folder / ".work/plan.json").write_text("{")
    assert read_plan(folder) is None


def test_who_is_alone_sweeps_and_who_is_not_does_not(folder: Path) -> None:
    foreign = folder / "data" / ".train-000006.tar.elsewhere-01234567.7.tmp"
    (folder / ".lock").touch()
    foreign.write_bytes(b"half")
    with share_dataset(folder, PLAN):
        assert not foreign.exists(), "nobody else was there"
        foreign.write_bytes(b"half")
        take_shard(folder, claim(0))
        with share_dataset(folder, PLAN):
            assert foreign.exists() and len(read_claims(folder)) == 1
            assert lock_holder(folder) == f"pid {os.getpid()}, host {os.uname().nodename}"
        assert foreign.exists(), "the first is still there"
    assert not foreign.exists() and read_claims(folder) == []
    assert read_plan(folder) == PLAN, "what was to be done is remembered"
    assert lock_holder(folder) is None


def test_tasks_that_begin_while_somebody_looks_are_not_told_of_a_dead_plan(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_work(folder, WorkPlan(recipe_id="b" * 64, render=RENDER, num_groups=10, shard_size=4))
    with open(folder / ".lock", "w") as looker:
        fcntl.flock(looker, fcntl.LOCK_EX)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(looker, fcntl.LOCK_UN))
        with share_dataset(folder, PLAN):
            assert read_plan(folder) == PLAN


def test_who_may_only_read_sees_a_job_that_is_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over NFS, which gives an exclusive lock only to who may write."""
    (folder / ".lock").touch()
    flock = fcntl.flock

    def flock_of_a_reader(descriptor: int, kind: int) -> None:
        if kind & fcntl.LOCK_EX:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, kind)

    with lock_dataset(folder):
        monkeypatch.setattr(fcntl, "flock", flock_of_a_reader)
        assert lock_holder(folder) == f"pid {os.getpid()}, host {os.uname().nodename}"
    assert lock_holder(folder) is None


# ---------------------------------------------------------------------------------------------------------------------
# Turns


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


def test_finishing_at_once_and_finishing_too_early(tmp_path: Path, build: Build, build_shard, recipe) -> None:
    whole = build(tmp_path / "whole", 10)
    directory = tmp_path / "d"
    assert finish_if_whole(directory, num_groups=10, shard_size=4) is None
    with share_dataset(directory, PLAN):
        for index, count in ((0, 4), (1, 4), (2, 1)):
            build_shard(directory, recipe(), index, 4 * index, count)
        assert finish_if_whole(directory, num_groups=10, shard_size=4) is None, "the last one is of a smaller dataset"
        assert not (directory / "manifest.json").exists()
        build_shard(directory, recipe(), 2, 8, 2)
        assert (directory / ".work").is_dir()
        with ThreadPoolExecutor(4) as pool:
            manifests = list(pool.map(lambda _: finish_if_whole(directory, num_groups=10, shard_size=4), range(4)))
    assert manifests == [whole] * 4 == [finish_dataset(directory, num_groups=10, shard_size=4)] * 4
    assert (directory / "manifest.json").read_bytes() == (tmp_path / "whole/manifest.json").read_bytes()
    assert not (directory / ".work").exists()


def test_finishing_again_leaves_the_work_of_those_who_grow_the_dataset(tmp_path: Path, build: Build) -> None:
    whole = build(tmp_path, 10)
    grown = WorkPlan(recipe_id=whole.recipe.id, render=RENDER, num_groups=16, shard_size=4)
    begin_work(tmp_path, grown)
    assert take_shard(tmp_path, claim(3)) == "taken"
    assert finish_dataset(tmp_path, num_groups=10, shard_size=4) == whole
    assert read_plan(tmp_path) == grown and len(read_claims(tmp_path)) == 1


def test_who_comes_late_to_finish_a_dataset_that_has_grown_since_leaves_it(
    tmp_path: Path, build: Build, build_shard, recipe
) -> None:
    whole = build(tmp_path, 10)
    begin_work(tmp_path, WorkPlan(recipe_id=whole.recipe.id, render=RENDER, num_groups=16, shard_size=4))
    before = (tmp_path / "manifest.json").read_bytes()
    for index in (3, 2):  # a new shard, and the short one made longer
        build_shard(tmp_path, recipe(), index, 4 * index, 4)
        assert finish_if_whole(tmp_path, num_groups=10, shard_size=4) == whole
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert (tmp_path / ".work").exists()
    grown = finish_if_whole(tmp_path, num_groups=16, shard_size=4)
    assert grown is not None and grown.num_groups == 16 and not (tmp_path / ".work").exists()
    assert finish_if_whole(tmp_path, num_groups=10, shard_size=4) == grown
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="holds groups up to 16, more than 10"):
        finish_if_whole(tmp_path, num_groups=10, shard_size=4)


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
