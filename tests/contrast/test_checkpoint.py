"""Checkpoints are written whole, read without running code, and fit or are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import contrast
from contrast.checkpoint import load_checkpoint, load_run, load_strictly, save_checkpoint
from contrast.encoders import build_encoder
from contrast.run_folder import read_run
from shards.errors import DamageError


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    weights = build_encoder("convnet-small", image_size=32).state_dict()
    save_checkpoint(path, {"encoder": weights, "step": 3, "config": {"a": [1, 2.5, "x"]}})
    state = load_checkpoint(path)
    assert state["step"] == 3 and state["config"] == {"a": [1, 2.5, "x"]}
    assert all(torch.equal(state["encoder"][name], tensor) for name, tensor in weights.items())


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    replaced = []

    def fail(source: str, target: str) -> None:
        replaced.append(Path(source))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"step": 2})
    assert replaced[0].parent == tmp_path  # on the same disk, or the rename would not be one
    assert load_checkpoint(path)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "foreign", "flipped bit"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"encoder": {"weight": torch.zeros(1000)}})
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-700])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "flipped bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x40  # a weight that is another, and loads
        path.write_bytes(data)
    else:
        torch.save([1, 2], path)
    with pytest.raises(DamageError, match=r"checkpoint\.pt is .* remove it"):
        load_checkpoint(path)


@pytest.fixture(scope="module")
def two_runs(make_groups: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same configuration on two datasets."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        options = {"steps": 2, "batch_size": 16, "head_hidden_dim": 32, "head_dim": 16, "device": "cpu", "quiet": True}
        contrast.train(shards=make_groups(seed=seed), out=folder / str(seed), **options)
    return [folder / "0", folder / "1"]


def test_a_checkpoint_of_the_same_settings_on_other_groups_is_refused(two_runs: list[Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(two_runs[0], tmp_path / "run"))
    record = read_run(run)
    assert load_run(run, record)["step"] == 2
    shutil.copyfile(two_runs[1] / "checkpoint.pt", run / "checkpoint.pt")
    with pytest.raises(
        ValueError, match=r"is of another run \(trained_on\.recipe\.seed: 1 in the checkpoint.* restore the run's own"
    ):
        load_run(run, record)


@pytest.mark.parametrize(
    "change",
    [{"step": 3}, {"step": -1}, {"step": "2"}, {"optimizer": None}, {"encoder": 1}, {"config": {"steps": "x"}}],
)
def test_what_a_checkpoint_lacks_is_damage(two_runs: list[Path], tmp_path: Path, change: dict[str, Any]) -> None:
    run = Path(shutil.copytree(two_runs[0], tmp_path / "run"))
    save_checkpoint(run / "checkpoint.pt", load_checkpoint(run / "checkpoint.pt") | change)
    with pytest.raises(DamageError, match=r"checkpoint\.pt is damaged .* remove it and train again"):
        load_run(run, read_run(run))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"format": 1, "encoder": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(DamageError):
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "ran").exists()


def test_no_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train first"):
        load_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_an_encoder_loads_whole_or_not_at_all(change: str) -> None:
    encoder = build_encoder("convnet-small", image_size=32)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    last = list(state)[-1]
    if change == "missing":
        del state[last]
    elif change == "extra":
        state["backbone.99.weight"] = torch.zeros(1)
    else:
        state["backbone.0.weight"] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(ValueError, match="the checkpoint is of another encoder"):
        load_strictly(encoder, state, what="the encoder")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
