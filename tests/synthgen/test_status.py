"""How far a render is, as told by what workers leave in the folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import synthgen
import synthgen.commands.status
from shards.claims import LEASE_SECONDS, Claim, end_claims, renew_claim, take_shard
from shards.folder import lock_dataset
from shards.recipe import RenderSettings
from shards.work import WorkPlan, begin_work
from synthgen.cli import main

Task = Callable[..., Any]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "d"


@pytest.fixture
def render_task(tiny_weights: Path, out: Path) -> Task:
    """Renders one of three tasks of six shards of 20 groups; without arguments, what is left."""

    def run(**options: Any) -> Any:
        settings = {"weights": tiny_weights, "shard_size": 20, "batch_size": 10, "dtype": "float32", "devices": "cpu"}
        return synthgen.render(n=110, out=out, quiet=True, **settings, **options)

    return run


def claim(index: int, pid: int, **fields: Any) -> Claim:
    began = time.time()
    known = {"count": 20, "host": "node7-01234567", "device": "cuda:1", "task": "0 of 3", "began": began}
    return Claim(**{**known, "index": index, "pid": pid, **fields})


def test_from_nothing_to_a_finished_dataset(render_task: Task, out: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        synthgen.status(out)
    render_task(task_index=1, task_count=3)
    state = synthgen.status(out)
    assert (state.state, state.finished, state.num_groups, state.num_shards) == ("stopped", False, 110, 6)
    assert (state.shards_done, state.shards_in_progress, state.shards_missing) == (2, 0, 4)
    assert state.groups_done == 40 and state.eta_seconds is None and state.failures == ()

    for index, pid, rate in ((0, 7, 4.0), (3, 7, 0.0), (2, 8, 2.0)):  # one worker holds two shards, one just taken
        assert take_shard(out, claim(index, pid)) == "taken"
        renew_claim(out, claim(index, pid, groups_written=10 if index == 0 else 0, groups_per_second=rate))
    state = synthgen.status(out)
    assert (state.state, state.workers, state.shards_in_progress, state.shards_missing) == ("running", 2, 3, 1)
    assert (state.groups_in_progress, state.groups_per_second, state.eta_seconds) == (10, 6.0, 10.0)

    end_claims(out, "node7-01234567", 7, "the disk is full")
    path = out / ".work/train-000002.claim.json"
    os.utime(path, (time.time() - LEASE_SECONDS - 20,) * 2)
    state = synthgen.status(out)
    assert state.state == "stopped" and state.claims == (), "who was not heard of for so long is gone"
    assert [(failure.index, failure.message) for failure in state.failures] == [(0, "the disk is full")]
    assert "pid 7 on node7" in state.failures[0].where

    render_task(task_index=0, task_count=3)
    state = synthgen.status(out)
    assert (state.failures, state.failures_repaired) == ((), 1)
    render_task()
    state = synthgen.status(out)
    assert (state.state, state.groups_done, state.shards_done, state.shards_missing) == ("finished", 110, 6, 0)
    assert not (out / ".work").exists()


@pytest.mark.parametrize("with_plan", [False, True])
def test_tars_that_were_lost_or_cut_are_counted(render_task: Task, out: Path, with_plan: bool) -> None:
    manifest = render_task()
    (out / "data/train-000001.tar").unlink()
    os.truncate(out / "data/train-000003.tar", 0)
    with open(out / "data/train-000005.tar", "ab") as file:
        file.write(b"more")
    if with_plan:
        plan = {"recipe_id": manifest.recipe.id, "render": manifest.render, "num_groups": 110, "shard_size": 20}
        begin_work(out, WorkPlan(**plan))
    state = synthgen.status(out)
    assert (state.state, state.tars_damaged, state.shards_done, state.groups_done) == ("stopped", 3, 3, 60)
    said = CliRunner().invoke(main, ["status", str(out)]).stdout
    assert "shards    3 of 6 done, 0 in progress, 3 to do\n" in said
    assert "damaged   3 tars missing or of another size: run the same command again to render them anew" in said
    assert json.loads(CliRunner().invoke(main, ["status", str(out), "--json"]).stdout)["tars_damaged"] == 3
    render_task()
    state = synthgen.status(out)
    assert (state.state, state.tars_damaged) == ("finished", 0)


def test_a_job_that_has_only_begun_is_running(out: Path) -> None:
    plan = WorkPlan(
        recipe_id="0" * 64, render=RenderSettings(batch_size=10, dtype="float32"), num_groups=110, shard_size=20
    )
    with lock_dataset(out):
        begin_work(out, plan)
        assert synthgen.status(out).state == "running", "nothing is claimed yet, but the lock is held"
    assert synthgen.status(out).state == "stopped"


def test_a_finished_dataset_with_the_plan_of_a_killed_job_is_finished(render_task: Task, out: Path) -> None:
    manifest = render_task()
    recipe_and_render = {"recipe_id": manifest.recipe.id, "render": manifest.render}
    begin_work(out, WorkPlan(**recipe_and_render, num_groups=110, shard_size=20))
    state = synthgen.status(out)
    assert (state.state, state.groups_done, state.shards_done) == ("finished", 110, 6)
    begin_work(out, WorkPlan(**recipe_and_render, num_groups=130, shard_size=20))
    assert synthgen.status(out).state == "stopped", "it was to become larger"
    begin_work(out, WorkPlan(**recipe_and_render, num_groups=110, shard_size=20))
    (out / "manifest.json").unlink()
    assert synthgen.status(out).state == "stopped", "its end is missing"


def test_the_command_says_it_to_people_and_to_programs(render_task: Task, out: Path) -> None:
    render_task(task_index=1, task_count=3)
    take_shard(out, claim(0, 9))
    end_claims(out, "node7-01234567", 9, "out of memory")
    take_shard(out, claim(3, 7))
    renew_claim(out, claim(3, 7, groups_written=10, groups_per_second=5.0))
    said = CliRunner().invoke(main, ["status", str(out)]).stdout
    for words in (
        f"{out}: running\n",
        "groups    50 of 110 (45%)",
        "shards    2 of 6 done, 1 in progress, 3 to do",
        "rate      5.0 groups/s on 1 worker, 12 s left",
        "shard 3     10 of 20: task 0 of 3, cuda:1, pid 7 on node7, last heartbeat",
        "failed    shard 0,",
        "pid 9 on node7: out of memory",
    ):
        assert words in said, said
    data = json.loads(CliRunner().invoke(main, ["status", str(out), "--json"]).stdout)
    assert (data["state"], data["finished"], data["shards_done"], data["eta_seconds"]) == ("running", False, 2, 12.0)
    assert data["claims"][0]["groups_written"] == 10 and data["failures"][0]["message"] == "out of memory"


def test_watching_a_render_that_nobody_works_on_ends(
    render_task: Task, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_task(task_index=1, task_count=3)
    looks: list[float] = []
    monkeypatch.setattr(synthgen.commands.status, "time", SimpleNamespace(sleep=looks.append))
    result = CliRunner().invoke(main, ["status", str(out), "--watch"])
    assert (
        result.exit_code == 1 and len(looks) == 150 and "no worker has been running for five minutes" in result.stderr
    )
    assert result.stdout.count("no worker is running: run the same synthgen render again to resume") == 151


def test_watching_ends_when_the_dataset_is_finished(
    render_task: Task, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render_task(task_index=1, task_count=3)
    clock = SimpleNamespace(sleep=lambda seconds: render_task())  # this command's alone: a render may sleep too
    monkeypatch.setattr(synthgen.commands.status, "time", clock)
    result = CliRunner().invoke(main, ["status", str(out), "--watch", "--json"])
    assert result.exit_code == 0
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()] == ["stopped", "finished"]


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert result.exit_code == 2 and "no manifest.json" in result.stderr
    assert list(tmp_path.iterdir()) == []
