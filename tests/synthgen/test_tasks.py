"""A job in tasks that know nothing of each other: any order, any number of times, the same bytes as in one piece."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import shards.folder
import synthgen
import synthgen.rendering
from shards.folder import lock_dataset, share_dataset
from shards.manifest import Manifest, load_manifest
from shards.recipe import RenderSettings
from shards.verification import verify
from shards.work import WorkPlan, begin_work, read_plan
from synthgen.config import RenderConfig
from synthgen.plan import plan_shards
from synthgen.runners.tasks import TaskShare, task_share

Render = Callable[..., Manifest | None]


@pytest.fixture
def render(tiny_weights: Path) -> Render:
    """`synthgen.render` with the tiny generator, in shards of 20."""

    def run(out: Path, n: int = 130, **options: Any) -> Manifest | None:
        settings = {"weights": tiny_weights, "shard_size": 20, "batch_size": 10, "dtype": "float32", "devices": "cpu"}
        return synthgen.render(n=n, out=out, **({"quiet": True} | settings | options))

    return run


def digests(folder: Path) -> dict[str, str]:
    names = ("data/*.tar", "data/*.npy", "manifest.json", "SHA256SUMS", "README.md")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for name in names for path in folder.glob(name)}


# ---------------------------------------------------------------------------------------------------------------------
# Which task this is


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_shares_are_a_partition_in_order(count: int) -> None:
    all_shards = plan_shards(num_groups=2030, shard_size=100)
    shares = [TaskShare(index=index, count=count, origin="").of(all_shards) for index in range(count)]
    assert sorted((shard for share in shares for shard in share), key=lambda shard: shard.index) == all_shards
    assert all(list(share) == sorted(share, key=lambda shard: shard.index) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def array(number: int, count: int, first: int = 0, step: int = 1) -> dict[str, str]:
    values = {"ID": number, "COUNT": count, "MIN": first, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (array(0, 4), (0, 4)),
        (array(3, 4), (3, 4)),
        (array(12, 4, first=10), (2, 4)),
        (array(16, 3, first=8, step=4), (2, 3)),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "8"}, (5, 8)),
    ],
)
def test_slurm_arrays_are_understood(environment: dict[str, str], expected: tuple[int, int]) -> None:
    share = task_share(None, None, environment)
    assert share is not None and (share.index, share.count) == expected
    given = task_share(1, 9, environment)
    assert given is not None and (given.index, given.count) == (1, 9), "what is given comes first"


def test_no_task_and_half_a_task() -> None:
    assert task_share(None, None, {}) is None
    assert task_share(None, None, {"SLURM_JOB_ID": "7"}) is None, "a job of Slurm that is no array"
    with pytest.raises(ValueError, match="task-index is given without task-count: give both"):
        task_share(1, None, {})
    with pytest.raises(ValueError, match="task-count is given without task-index: give both"):
        task_share(None, 4, array(0, 4))
    for environment in (array(7, 2, first=3), array(9, 3, first=8, step=4)):
        with pytest.raises(ValueError, match=r"its numbers have gaps.* give --task-index and --task-count"):
            task_share(None, None, environment)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task_index": 4, "task_count": 4}, "task-index 4: give a whole number from 0 to 3"),
        ({"task_index": -1, "task_count": 4}, "task-index -1"),
        ({"task_index": 0, "task_count": 0}, "task-count 0"),
        ({"runner": "abacus"}, "no runner 'abacus': choose one of local, slurm, ray"),
        ({"tasks": 4}, "omit --tasks, or give --runner slurm"),
        ({"runner": "ray", "tasks": 0}, "tasks 0: give a whole number from 1"),
        ({"runner": "ray", "task_index": 0, "task_count": 2}, "the runner ray cuts the job itself: give --tasks"),
        ({"slurm": "time=5"}, "omit --slurm, or give --runner slurm"),
        ({"runner": "slurm", "slurm": "time"}, "slurm 'time': give options of sbatch as name=value"),
    ],
)
def test_wrong_requests(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RenderConfig(n=4, out=tmp_path / "d", **options)


# ---------------------------------------------------------------------------------------------------------------------
# What tasks leave


def test_tasks_in_any_order_give_the_bytes_of_one_job(render: Render, tmp_path: Path) -> None:
    whole = render(tmp_path / "whole")
    out = tmp_path / "tasks"
    assert render(out, task_index=2, task_count=3) is None
    assert not (out / "manifest.json").exists(), "shards of others are missing"
    assert {path.name for path in out.glob("data/*.tar")} == {"train-000002.tar", "train-000005.tar"}
    assert render(out, task_index=2, task_count=3) is None, "again"
    assert render(out, task_index=0, task_count=3) is None
    assert render(out, task_index=1, task_count=4) is None, "cut another way, it overlaps"
    assert render(out, task_index=1, task_count=3) == whole
    assert digests(out) == digests(tmp_path / "whole")
    assert render(out, task_index=0, task_count=3) == whole == load_manifest(out), "after the end"
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == [".lock", ".turn"]
    assert verify(out).ok


def test_a_task_of_a_slurm_array_renders_its_part(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        for name, value in array(11, 2, first=10).items():
            patch.setenv(name, value)
        assert render(tmp_path / "d", n=60, quiet=False) is None
    assert "task 1 of 2 (SLURM_ARRAY_TASK_ID): 1 shard to render" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("d/data/*.tar")] == ["train-000001.tar"]
    assert render(tmp_path / "d", n=60) is not None, "a job in one piece goes on where tasks stopped"


def test_tasks_grow_a_dataset_whose_last_shard_was_short(render: Render, tmp_path: Path) -> None:
    whole = render(tmp_path / "whole", n=130)
    assert render(tmp_path / "d", n=50) is not None
    assert render(tmp_path / "d", n=130, task_index=1, task_count=2) is None
    assert render(tmp_path / "d", n=130, task_index=0, task_count=2) == whole
    assert digests(tmp_path / "d") == digests(tmp_path / "whole")


# ---------------------------------------------------------------------------------------------------------------------
# Who may write beside whom

PLAN = WorkPlan(
    recipe_id="0" * 64, render=RenderSettings(batch_size=10, dtype="float32"), num_groups=130, shard_size=20
)


def test_a_task_of_another_plan_is_told(render: Render, tmp_path: Path) -> None:
    with (
        share_dataset(tmp_path / "d", PLAN),
        pytest.raises(ValueError, match=r"other tasks are writing .*recipe_id: .* in the folder"),
    ):
        render(tmp_path / "d", task_index=0, task_count=2)
    assert render(tmp_path / "d", task_index=0, task_count=2) is None, "they are gone, and so is their plan"


def test_a_task_with_nothing_to_do_leaves_the_work_of_those_who_grow_the_dataset(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, larger = render(tmp_path / "d"), replace(PLAN, num_groups=170)

    def others_begin(job: object, state: object) -> None:
        """The plan of this task is done and gone, and tasks of a larger one come in."""
        begin_work(tmp_path / "d", larger)

    with monkeypatch.context() as patched:
        patched.setattr(synthgen.rendering, "check_disk", others_begin)
        assert render(tmp_path / "d", task_index=0, task_count=2) == whole
    assert read_plan(tmp_path / "d") == larger
    assert render(tmp_path / "d") == whole and read_plan(tmp_path / "d") is None, "who has it alone clears it up"


def test_jobs_in_one_piece_and_tasks_exclude_each_other(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards.folder, "_LOCK_SECONDS", 0.1)
    monkeypatch.setattr(shards.folder, "_SHARED_LOCK_SECONDS", 0.1)
    with share_dataset(tmp_path / "d", PLAN), pytest.raises(ValueError, match=r"another job .* is writing"):
        render(tmp_path / "d")
    with lock_dataset(tmp_path / "d"), pytest.raises(ValueError, match=r"another job .* is writing"):
        render(tmp_path / "d", task_index=0, task_count=2)
    assert render(tmp_path / "d", task_index=0, task_count=1) is not None
