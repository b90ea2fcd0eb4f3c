"""A folder and those who work in it: plans, one writer at a time, what is swept, and the end."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.atomic import temporary_path
from shards.claims import (
    read_claims,
    take_shard,
)
from shards.folder import (
    finish_dataset,
    finish_if_whole,
    lock_dataset,
    lock_holder,
    restore_files,
    share_dataset,
)
from shards.work import WorkPlan, begin_work, join_work, read_plan
from tests.shards.samples import PLAN, RENDER, Build, MakeRecipe, claim


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


def test_a_dataset_is_not_finished_while_shards_are_missing(dataset: Path) -> None:
    (dataset / "data/train-000001.done.json").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 shards are not done \(1\)"):
        finish_dataset(dataset, num_groups=10, shard_size=4)
    with pytest.raises(ValueError, match="holds groups up to 10, more than 8"):
        finish_dataset(dataset, num_groups=8, shard_size=4)
    before = (dataset / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"shards are not those of its manifest: run the same synthgen render again"):
        restore_files(dataset)
    assert (dataset / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(("seed", "dtype"), [(1, "float32"), (0, "bfloat16")], ids=["recipe", "render settings"])
def test_shards_of_two_renders_are_not_finished_as_one(
    tmp_path: Path, build_shard: Callable[..., None], recipe: MakeRecipe, seed: int, dtype: str
) -> None:
    for index, made in enumerate((recipe(), recipe(seed=seed))):
        build_shard(tmp_path, made, index, 4 * index, 4)
    marker = tmp_path / "data/train-000001.done.json"
    marker.write_text(marker.read_text().replace("float32", dtype))
    with pytest.raises(ValueError, match="shard 1 is of another recipe than shard 0: render it again"):
        finish_dataset(tmp_path, num_groups=8, shard_size=4)
    assert not (tmp_path / "manifest.json").exists()


def test_a_second_job_is_told_and_stops(tmp_path: Path) -> None:
    script = "import sys, shards\nwith shards.lock_dataset(sys.argv[1]):\n print('held', flush=True)\n sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "d")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=rf"another job \(pid {holder.pid}, host .*\) is writing"),
            lock_dataset(tmp_path / "d"),
        ):
            raise AssertionError("two jobs hold one lock")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock_dataset(tmp_path / "d"):
        pass


def test_stale_temporary_files_are_swept(dataset: Path, build: Build) -> None:
    stale = [dataset / "data/.train-000009.tar.123.tmp", dataset / ".manifest.json.123.tmp"]
    for path in stale:
        path.write_bytes(b"half")
    (dataset / "data/notes.tmp").write_text("not ours")
    build(dataset, 10)
    assert not any(path.exists() for path in stale)
    assert (dataset / "data/notes.tmp").exists()


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_file_on_its_way_into_the_folder_by_another_program_is_not_swept(
    dataset: Path, recipe: MakeRecipe, is_shared: bool
) -> None:
    names = ("README.md", "SHA256SUMS", "_info.json", "manifest.json", "groups.beton")
    temporaries = {name: temporary_path(dataset / name) for name in names}
    program = "import sys, pathlib, shards.atomic as a; a.temporary_path(pathlib.Path(sys.argv[1])).touch()"
    subprocess.run([sys.executable, "-c", program, str(dataset / "killed.beton")], check=True)
    for path in temporaries.values():
        path.write_bytes(b"half")
    plan = WorkPlan(recipe_id=recipe().id, render=RENDER, num_groups=18, shard_size=4)
    with share_dataset(dataset, plan) if is_shared else lock_dataset(dataset):
        assert list(dataset.glob(".*.tmp")) == [temporaries["groups.beton"]]  # whose process, this one, is alive
    assert temporaries["groups.beton"].exists()


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\)"), lock_dataset(tmp_path):
        raise AssertionError("the folder was taken")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is a file"), lock_dataset(tmp_path / "thesis.tex"):
        raise AssertionError("a file was taken for a folder")
