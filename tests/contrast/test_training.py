"""The loop: it learns, it resumes bit for bit, it keeps to its own folder."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import contrast
from contrast.config import TrainConfig
from contrast.recording import Recording
from contrast.run_folder import read_run
from contrast.run_options import RunOptions
from contrast.runlog import RunLog, read_metrics, rewind_metrics
from contrast.starting import configure_run
from contrast.training import _seed_of_step, train_encoder
from shards.dataset import GroupDataset
from shards.errors import DamageError

QUIET = RunOptions(device="cpu", quiet=True, log_every=2, checkpoint_seconds=0)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    return {
        **{f"encoder.{k}": v for k, v in state["encoder"].items()},
        **{f"head.{k}": v for k, v in state["head"].items()},
    }


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = weights_of(one), weights_of(other)
    assert mine.keys() == theirs.keys()
    different = [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert different == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_leaves_everything_in_its_folder(
    groups: Path, tmp_path: Path, config: TrainConfig, precision: str
) -> None:
    config = dataclasses.replace(config, precision=precision)
    summary = train_encoder(config, shards=groups, out=tmp_path / "run", n=64, options=QUIET)
    assert (summary.steps, summary.steps_now) == (6, 6)
    assert summary.chance_loss == pytest.approx(3.434, abs=1e-3)  # log(31): 16 groups of 2
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {".lock", "config.json", "environment.json", "metrics.jsonl", "checkpoint.pt"}
    record = read_run(tmp_path / "run")
    assert record.config == config
    assert (record.trained_on.num_groups, record.trained_on.class_names["3"]) == (64, "disc")
    assert record.trained_on.groups.recipe == GroupDataset(groups).manifest.recipe
    metrics = read_metrics(tmp_path / "run")
    assert [entry["step"] for entry in metrics] == [2, 4, 6]
    assert metrics[-1]["groups"] == 96 and metrics[-1]["loss"] == summary.loss


def test_the_number_of_workers_and_the_memory_do_not_matter(groups: Path, tmp_path: Path, config: TrainConfig) -> None:
    train_encoder(config, shards=groups, out=tmp_path / "a", options=QUIET)
    others = dataclasses.replace(QUIET, num_workers=3, memory_bytes=0, log_every=6)
    train_encoder(config, shards=groups, out=tmp_path / "b", options=others)
    assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_another_seed_is_another_run(groups: Path, tmp_path: Path, config: TrainConfig) -> None:
    for seed in (0, 1):
        train_encoder(dataclasses.replace(config, seed=seed), shards=groups, out=tmp_path / str(seed), options=QUIET)
    assert not torch.equal(*(weights_of(tmp_path / s)["encoder.backbone.0.weight"] for s in ("0", "1")))


def test_every_step_of_every_process_of_every_seed_has_a_random_state_of_its_own() -> None:
    states = {_seed_of_step(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)}
    assert len(states) == 27


def test_a_finished_run_says_so_and_changes_nothing(
    groups: Path, tmp_path: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train_encoder(config, shards=groups, out=tmp_path / "run", options=QUIET)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    speaking = dataclasses.replace(QUIET, quiet=False)
    again = train_encoder(config, shards=groups, out=tmp_path / "run", options=speaking)
    assert "is finished (6 steps): nothing to do" in capsys.readouterr().err
    assert (again.steps_now, again.loss) == (0, first.loss)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name != ".lock")


def test_a_folder_of_another_run_is_refused_by_the_field(
    groups: Path, make_groups: Callable[..., Path], tmp_path: Path, config: TrainConfig
) -> None:
    run = tmp_path / "run"
    train_encoder(config, shards=groups, out=run, options=QUIET)
    before = (run / "checkpoint.pt").read_bytes()
    for field, value in (("temperature", 0.7), ("steps", 7), ("objective", "supcon"), ("batch_size", 8)):
        with pytest.raises(ValueError, match=f"{field}: .* in the folder, {value} asked for"):
            train_encoder(dataclasses.replace(config, **{field: value}), shards=groups, out=run, options=QUIET)
    with pytest.raises(ValueError, match=r"trained_on\.num_groups: 96 in the folder, 64 asked for"):
        train_encoder(config, shards=groups, out=run, n=64, options=QUIET)
    with pytest.raises(ValueError, match=r"trained_on\.recipe\.seed: 0 in the folder, 9 asked for"):
        train_encoder(config, shards=make_groups(seed=9), out=run, options=QUIET)
    assert (run / "checkpoint.pt").read_bytes() == before


def test_a_run_of_another_format_is_not_read(groups: Path, tmp_path: Path, config: TrainConfig) -> None:
    run = tmp_path / "run"
    train_encoder(config, shards=groups, out=run, options=QUIET)
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**record, "format": record["format"] - 1}))
    with pytest.raises(ValueError, match=r"config\.json is of format 1, this version reads 2: use the version"):
        train_encoder(config, shards=groups, out=run, options=QUIET)


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": "abc"},
        {"num_groups": "many"},
        {"recipe": {}},
        {"recipe_id": "0" * 64},
        {"real": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_run_says_of_its_groups_is_damage_where_it_was_altered(
    groups: Path, tmp_path: Path, config: TrainConfig, change: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    train_encoder(dataclasses.replace(config, steps=1), shards=groups, out=run, options=QUIET)
    record = json.loads((run / "config.json").read_text())
    record["trained_on"] |= change
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(DamageError, match=r"config\.json was altered \(TypeError: .*restore it or train again"):
        read_run(run)


def _stop_after(steps: int) -> Callable[..., bool]:
    after_step = Recording.after_step

    def stop(self: Recording, step: int, loss: torch.Tensor, *, learning_rate: float) -> bool:
        stopping = after_step(self, step, loss, learning_rate=learning_rate)
        if step + 1 == steps:
            raise ZeroDivisionError
        return stopping

    return stop


def test_a_run_that_ended_before_its_first_checkpoint_binds_nobody(
    groups: Path, tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("contrast.recording.save_run", lambda *_, **__: 1 / 0)  # after the first figures
        with pytest.raises(ZeroDivisionError):
            train_encoder(config, shards=groups, out=run, options=QUIET)
    assert read_run(run).config == config and read_metrics(run)
    other = dataclasses.replace(config, temperature=0.7)
    train_encoder(other, shards=groups, out=run, n=64, options=QUIET)
    assert (read_run(run).config, read_run(run).trained_on.num_groups) == (other, 64)
    assert [entry["step"] for entry in read_metrics(run)] == [2, 4, 6]
    (run / "checkpoint.pt").unlink()
    (run / "config.json").write_text("{")
    settings = {"batch_size": 16, "head_hidden_dim": 32, "head_dim": 16}
    assert configure_run(shards=groups, out=run, steps=6, device="cpu", settings=settings).batch_size == 16
    train_encoder(config, shards=groups, out=run, options=QUIET)
    (run / "evaluate.json").write_text("{}")  # scores of the weights that were here
    (run / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="temperature"):
        train_encoder(other, shards=groups, out=run, options=QUIET)


def test_a_folder_with_other_files_is_left_alone(groups: Path, tmp_path: Path, config: TrainConfig) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files \(thesis\.tex"):
        train_encoder(config, shards=groups, out=tmp_path, options=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is a file: choose a folder"):
        train_encoder(config, shards=groups, out=tmp_path / "thesis.tex", options=QUIET)


def test_two_jobs_on_one_run(groups: Path, tmp_path: Path, config: TrainConfig) -> None:
    import fcntl

    train_encoder(config, shards=groups, out=tmp_path / "run", options=QUIET)
    with open(tmp_path / "run" / ".lock", "r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=rf"another job \(pid {os.getpid()}, host .*\) is working on"):
            train_encoder(config, shards=groups, out=tmp_path / "run", options=QUIET)


def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    groups: Path, make_groups: Callable[..., Path], tmp_path: Path, config: TrainConfig
) -> None:
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=r"--n 97: .* holds 96 groups"):
        train_encoder(config, shards=groups, out=run, n=97, options=QUIET)
    with pytest.raises(ValueError, match=f"no folder {tmp_path / 'nowhere'}"):
        train_encoder(config, shards=tmp_path / "nowhere", out=run, options=QUIET)
    with pytest.raises(ValueError, match=r"needs class labels .* use --objective simclr"):
        supcon = dataclasses.replace(config, objective="supcon")
        train_encoder(supcon, shards=make_groups(num_groups=20, classes=()), out=run, options=QUIET)
    with pytest.raises(ValueError, match="batch size 1:"):
        train_encoder(dataclasses.replace(config, batch_size=1), shards=groups, out=run, options=QUIET)
    with pytest.raises(ValueError, match="no device cuda:9"):
        train_encoder(config, shards=groups, out=run, options=dataclasses.replace(QUIET, device="cuda:9"))
    assert not run.exists()


def test_damage_in_the_dataset_and_in_the_checkpoint_is_named(
    make_groups: Callable[..., Path], tmp_path: Path, config: TrainConfig
) -> None:
    damaged = make_groups(seed=5)
    tar = damaged / "data" / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(DamageError, match=r"train-000001\.tar is truncated"):
        train_encoder(config, shards=damaged, out=tmp_path / "run", options=QUIET)
    run = tmp_path / "other"
    sound = make_groups(seed=6)
    train_encoder(config, shards=sound, out=run, options=QUIET)
    (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:5000])
    with pytest.raises(DamageError, match=r"checkpoint\.pt is damaged"):
        train_encoder(config, shards=sound, out=run, options=QUIET)


def test_a_checkpoint_of_another_run_is_refused(groups: Path, tmp_path: Path, config: TrainConfig) -> None:
    other = dataclasses.replace(config, head_dim=8)
    train_encoder(config, shards=groups, out=tmp_path / "a", options=QUIET)
    train_encoder(other, shards=groups, out=tmp_path / "b", options=QUIET)
    (tmp_path / "a" / "checkpoint.pt").write_bytes((tmp_path / "b" / "checkpoint.pt").read_bytes())
    with pytest.raises(ValueError, match=r"of another run .head_dim: 8 in the checkpoint, 16 in config\.json"):
        train_encoder(config, shards=groups, out=tmp_path / "a", options=QUIET)


def test_a_loss_that_is_no_number_ends_the_run(groups: Path, tmp_path: Path, config: TrainConfig) -> None:
    hot = dataclasses.replace(config, optimizer="sgd", learning_rate=1e30, warmup=0.0)
    with pytest.raises(ValueError, match=r"the loss is .* smaller --learning-rate"):
        train_encoder(hot, shards=groups, out=tmp_path / "run", options=QUIET)


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adamw", 1e30), ("sgd", 9e37)])
def test_weights_that_the_last_update_broke_are_not_saved(
    groups: Path, tmp_path: Path, config: TrainConfig, optimizer: str, learning_rate: float
) -> None:
    run = tmp_path / "run"
    hot = dataclasses.replace(config, steps=1, learning_rate=learning_rate, optimizer=optimizer, warmup=0.0)
    with pytest.raises(ValueError, match=r"the weights are beyond .* after step 1.*smaller --learning-rate"):
        train_encoder(hot, shards=groups, out=run, options=QUIET)
    assert not (run / "checkpoint.pt").exists()
    cooler = dataclasses.replace(hot, learning_rate=1e-3)
    assert train_encoder(cooler, shards=groups, out=run, options=QUIET).steps_now == 1


def test_tensorboard_gets_the_same_figures(groups: Path, tmp_path: Path, config: TrainConfig) -> None:
    run = tmp_path / "run"
    train_encoder(config, shards=groups, out=run, options=dataclasses.replace(QUIET, tensorboard=True))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(entry["step"], pytest.approx(entry["loss"])) for entry in read_metrics(run)]
    assert logged == expected


def test_tensorboard_has_every_step_once_after_a_run_was_rewound(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, tensorboard=True) as log:
        for step in (10, 20, 30):
            log.write({"step": step, "loss": float(step)})
    rewind_metrics(tmp_path, step=10)
    with RunLog(tmp_path, tensorboard=True, first_step=10) as log:
        for step in (20, 30):
            log.write({"step": step, "loss": step + 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    expected = [(10, 10.0), (20, 20.5), (30, 30.5)]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == expected
    assert [(record["step"], record["loss"]) for record in read_metrics(tmp_path)] == expected


def test_a_label_that_is_no_class_of_the_dataset_is_damage(groups: Path, tmp_path: Path) -> None:
    """As where a bit of the index has flipped; it would be learnt as another class."""
    damaged = Path(shutil.copytree(groups, tmp_path / "damaged"))
    for path in (damaged / "data").glob("*.index.npy"):
        index = np.load(path)
        index[0, 0] = -7
        np.save(path, index)
    options = {"out": tmp_path / "run", "batch_size": 96, "steps": 1, "device": "cpu", "quiet": True}
    with pytest.raises(DamageError, match=r"has label -7, which is none of its dataset's classes: shards verify"):
        contrast.train(shards=damaged, objective="cross-entropy", **options)
    assert contrast.train(shards=damaged, objective="simclr", **options).steps_now == 1  # looks at none
