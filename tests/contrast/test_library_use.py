"""From Python, in a process that has work of its own: its settings do not reach a run, and stay as they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import contrast
from contrast.config import TrainConfig, TrainSettings
from contrast.losses import multi_positive_loss
from contrast.run_options import RunOptions
from contrast.runlog import read_metrics

SHORT: dict[str, Any] = {"steps": 3, "batch_size": 16, "device": "cpu", "quiet": True, "precision": "float32"}


@pytest.fixture
def run(groups: Path, tmp_path: Path) -> Path:
    contrast.train(shards=groups, out=tmp_path / "run", **SHORT)
    return tmp_path / "run"


@pytest.fixture(scope="session")
def labelled(make_groups: Callable[..., Path]) -> Path:
    """Groups that no run here has seen."""
    return make_groups(seed=77)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["encoder"]


@pytest.mark.parametrize(
    "surroundings",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: _changed(torch.set_default_dtype, torch.float64, torch.float32),
        lambda: _changed(torch.set_default_device, "meta", None),
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["no_grad", "inference_mode", "default dtype", "default device", "device", "autocast"],
)
def test_a_run_is_the_same_in_any_process(
    groups: Path, labelled: Path, run: Path, tmp_path: Path, surroundings: Callable[[], Any]
) -> None:
    with surroundings():
        contrast.train(shards=groups, out=tmp_path / "again", **SHORT)
        scores = contrast.eval(run, data=labelled, k=1, device="cpu", quiet=True, controls=False)
    expected, found = weights(run), weights(tmp_path / "again")
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert scores.tests[0].scores["trained"].knn is not None


@pytest.mark.parametrize("inside", [nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_bfloat16_learns_what_float32_learns(groups: Path, tmp_path: Path, inside: Callable[[], Any]) -> None:
    """Autocast keeps the weights that it cast until its outermost region ends: passes have to see the updates."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = {**SHORT, "steps": 40, "precision": precision, "objective": "cross-entropy"}
        with inside():
            contrast.train(shards=groups, out=tmp_path / precision, **settings)
        losses[precision] = [record["loss"] for record in read_metrics(tmp_path / precision)]
    assert losses["float32"][-1] < losses["float32"][0] - 0.5
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.1)


class _changed:
    def __init__(self, change: Callable[[Any], None], inside: Any, outside: Any) -> None:
        self._change, self._inside, self._outside = change, inside, outside

    def __enter__(self) -> None:
        self._change(self._inside)

    def __exit__(self, *error: object) -> None:
        self._change(self._outside)


@pytest.mark.parametrize(
    "work",
    [
        lambda groups, labelled, run, out: contrast.train(shards=groups, out=out / "new", threads=2, **SHORT),
        lambda groups, labelled, run, out: contrast.eval(run, data=labelled, threads=2, device="cpu", quiet=True),
        lambda groups, labelled, run, out: contrast.export(run, format="safetensors", out=out / "encoder.safetensors"),
    ],
    ids=["train", "eval", "export"],
)
def test_what_the_user_draws_afterwards_is_as_if_nothing_had_run(
    groups: Path, labelled: Path, run: Path, tmp_path: Path, work: Callable[[Path, Path, Path, Path], object]
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    work(groups, labelled, run, tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


def test_numbers_and_paths_of_every_kind_are_taken(labelled: Path, run: Path, tmp_path: Path) -> None:
    plain = TrainConfig(steps=5, batch_size=64, seed=1, learning_rate=0.002)
    numpy = TrainConfig(steps=np.int64(5), batch_size="64", seed=np.uint8(1), learning_rate=np.float32(0.002))  # type: ignore[arg-type]
    assert numpy == plain and json.dumps(numpy.to_json()) == json.dumps(plain.to_json())
    here = torch.device("cpu")
    options = RunOptions(device=here, cache_bytes="2G", knn_every="1k", knn_data=Path("photos"))  # type: ignore[arg-type]
    assert (options.device, options.cache_bytes) == ("cpu", 2 * 10**9)
    assert (options.knn_every, options.knn_data) == (1000, "photos")
    scores = contrast.eval(
        str(run), data=labelled, data_train=labelled, scores="knn,rankme", k=np.int64(3), device=here, quiet=True
    )
    found = scores.tests[0].scores["trained"]
    assert found.knn is not None and list(found.knn_by_k or ()) == ["3"] and found.rankme is not None
    exported = contrast.export(run, format="safetensors", out=tmp_path / "here" / "encoder.safetensors")
    assert Path(exported.path).exists() and exported.to_json()["file"] == "encoder.safetensors"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 1.5}, "seed 1.5: give a whole number"),
        ({"learning_rate": "0.1"}, "learning-rate 0.1: give a number"),
        ({"head_dim": 64.0}, "head-dim 64.0: give a whole number"),
        ({"batch_size": None}, "batch-size None: give a whole number"),
        ({"sync_batchnorm": "no"}, "sync-batchnorm 'no': give True or False"),
        ({"warmup": True}, "warmup True: give a number"),
        ({"augment": None}, "augment None: give text such as"),
        ({"augment": {"crop": (0.3, 1)}}, "augment: give text such as"),
        ({"encoder": torch.nn.Identity()}, "unknown encoder"),
        ({"compile": "no"}, "compile 'no': give True or False"),
        ({"threads": 1.0}, "threads 1.0: give a whole number"),
        ({"threads": 0}, "threads 0: give a whole number"),
        ({"workers": "some"}, "workers: 'some' is not a count"),
        ({"device": None}, "unknown device 'None'"),
        ({"steps": None, "epochs": "1"}, "epochs 1: give a number"),
        ({"batchsize": 12}, "unknown setting 'batchsize'"),
    ],
)
def test_values_of_the_wrong_kind_are_one_line_and_leave_nothing(
    groups: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        contrast.train(shards=groups, out=tmp_path / "run", **{**SHORT, **settings})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 10.5}, "k 10.5: give a whole number"),
        ({"k": ()}, "k: give whole numbers"),
        ({"threads": -1}, "threads -1: give a whole number"),
        ({"num_train": 0.5}, "num-train 0.5: give a whole number"),
        ({"controls": "no"}, "controls 'no': give True or False"),
        ({"scores": "kn"}, "unknown score 'kn'"),
    ],
)
def test_wrong_options_of_eval_are_one_line(labelled: Path, run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrast.eval(run, data=labelled, **options)


def test_pages_are_pages_and_a_sheet_is_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give a file name that ends in \.html"):
        contrast.report(run, tmp_path / "page.pdf")
    for sheet in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ValueError, match=r"no file .*: give a PNG such as shards preview"):
            contrast.report(run, tmp_path / "page.html", sheet=sheet)
    with pytest.raises(ValueError, match="give two runs or more"):
        contrast.compare(run)
    assert not (tmp_path / "page.html").exists()


def test_a_temperature_of_zero_is_no_temperature() -> None:
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match=r"temperature .*: give a number above 0"):
            multi_positive_loss(torch.randn(4, 8), torch.tensor([0, 0, 1, 1]), temperature=temperature)


def test_every_setting_is_a_typed_keyword() -> None:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    apart = {"steps", "precision", "order", "mix_share"}  # by options of their own
    assert set(TrainSettings.__annotations__) == fields - apart
