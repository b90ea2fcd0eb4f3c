"""Killed, resumed: the run that was not interrupted, whatever is learnt, from whichever images and optimiser."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import contrast
from contrast.augment import AugmentConfig
from contrast.config import TrainConfig
from contrast.run_folder import open_run, read_run
from contrast.run_options import RunOptions
from contrast.runlog import read_metrics
from contrast.training import train_encoder

QUIET = RunOptions(device="cpu", quiet=True, log_every=2, checkpoint_seconds=0)
CASES: dict[str, dict[str, Any]] = {
    "simclr-of-three-images-sgd": {"objective": "simclr", "optimizer": "sgd", "learning_rate": 0.05},
    "multi-positive-lars-in-parts": {
        "objective": "multi-positive", "optimizer": "lars", "learning_rate": 0.5, "accumulate": 2,
    },
    "supcon-adamw-with-real-images": {"objective": "supcon", "mix_share": 0.25, "augment": AugmentConfig(blur=0.5)},
    "vicreg-lars-without-augmentation": {
        "objective": "vicreg", "optimizer": "lars", "learning_rate": 0.5, "positives": "tz",
    },
    "cross-entropy-sgd": {"objective": "cross-entropy", "optimizer": "sgd", "learning_rate": 0.05},
    "inverter-adamw": {"objective": "inverter", "augment": AugmentConfig(solarize=0.5)},
    "simclr-shuffled": {"objective": "simclr", "positives": "shuffled"},
    "simclr-of-the-anchor-alone": {"objective": "simclr", "positives": "tx"},
}  # fmt: skip


@pytest.fixture(scope="module")
def jobs(make_groups: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Every case, killed after step 4 of 7."""
    shards = make_groups(num_groups=40, num_views=2, with_latents=True)
    real = make_groups(num_groups=16, seed=3)
    folder = tmp_path_factory.mktemp("killed")
    made = {}
    for name, settings in CASES.items():
        config = TrainConfig(steps=7, batch_size=12, head_hidden_dim=32, head_dim=16, **settings)
        mix = str(real) if config.mix_share else None
        made[name] = {"config": config.to_json(), "shards": str(shards), "mix": mix, "out": str(folder / name)}
    (folder / "jobs.json").write_text(json.dumps(list(made.values())))
    script = Path(__file__).with_name("killed_trainer.py")
    result = subprocess.run([sys.executable, str(script), str(folder / "jobs.json")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return made


def without_speed(run: Path) -> list[dict[str, float]]:
    timed = ("views_per_second", "wait_share")
    return [{name: value for name, value in record.items() if name not in timed} for record in read_metrics(run)]


@pytest.mark.parametrize("name", CASES)
def test_killed_and_resumed_is_the_run_that_was_not(jobs: dict[str, dict[str, Any]], name: str, tmp_path: Path) -> None:
    job = jobs[name]
    killed = Path(job["out"])
    assert torch.load(killed / "checkpoint.pt", weights_only=True)["step"] == 4
    config, inputs = TrainConfig.from_json(job["config"]), {"shards": job["shards"], "mix": job["mix"]}
    assert train_encoder(config, **inputs, out=killed, options=QUIET).steps_now == 3
    train_encoder(config, **inputs, out=tmp_path / "whole", options=QUIET)
    mine, theirs = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (killed, tmp_path / "whole"))
    assert mine["loss"] == theirs["loss"]
    for part in ("encoder", "head"):
        assert [key for key in theirs[part] if not torch.equal(mine[part][key], theirs[part][key])] == [], part
    for key, state in theirs["optimizer"]["state"].items():
        assert all(torch.equal(mine["optimizer"]["state"][key][name], value) for name, value in state.items())
    assert without_speed(killed) == without_speed(tmp_path / "whole"), "every step once"
    environments = json.loads((killed / "environment.json").read_text())
    assert [entry["first_step"] for entry in environments] == [0, 4]


def test_a_streamed_run_keeps_the_shard_size_and_the_processes_that_it_began_with(
    make_groups: Callable[..., Path], tmp_path: Path
) -> None:
    sizes = {size: make_groups(num_groups=48, shard_size=size) for size in (12, 16)}
    options = {"batch_size": 16, "steps": 1, "device": "cpu", "quiet": True}
    for reader in ("tar", "webdataset"):
        contrast.train(shards=sizes[12], out=tmp_path / reader, reader=reader, **options)
    with pytest.raises(ValueError, match=r"trained_on\.shard_size: 12 in the folder, 16 asked for"):
        contrast.train(shards=sizes[16], out=tmp_path / "webdataset", reader="webdataset", **options)
    record = read_run(tmp_path / "webdataset")
    of_two = dataclasses.replace(record, trained_on=dataclasses.replace(record.trained_on, num_processes=2))
    with (
        pytest.raises(ValueError, match=r"trained_on\.num_processes: 1 in the folder, 2 asked for"),
        open_run(tmp_path / "webdataset", of_two),
    ):
        pass
    # The shuffled order does not know of shards, nor of processes.
    assert read_run(tmp_path / "tar").trained_on.num_processes is None
    assert contrast.train(shards=sizes[16], out=tmp_path / "tar", reader="tar", **options).steps_now == 0
