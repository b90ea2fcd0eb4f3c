"""kNN while training: it tells what contrast eval would tell, and the run does not notice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contrast.config import TrainConfig
from contrast.evaluation import online, sources
from contrast.evaluation.scoring import evaluate_run
from contrast.evaluation.sources import load_pair
from contrast.images import align_classes
from contrast.page import write_report
from contrast.run_options import RunOptions
from contrast.runlog import read_metrics
from contrast.trained_on import SeenGroups, TrainedOn
from contrast.training import train_encoder
from shards.dataset import GroupDataset

QUIET = RunOptions(device="cpu", quiet=True, log_every=2, checkpoint_seconds=0)


def watch(data: Path, trained_on: TrainedOn) -> online.OnlineKnn:
    return online.OnlineKnn(
        every=1,
        last_step=1,
        data=str(data),
        data_root=None,
        trained_on=trained_on,
        device=torch.device("cpu"),
        precision="float32",
    )


@pytest.fixture(scope="module")
def labelled(make_groups: Callable[..., Path]) -> Path:
    return make_groups(num_groups=120, seed=9)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_run_is_bit_for_bit_the_one_without(
    groups: Path, labelled: Path, tmp_path: Path, config: TrainConfig, precision: str
) -> None:
    config = dataclasses.replace(config, precision=precision)
    scored = dataclasses.replace(QUIET, knn_every=2, knn_data=str(labelled))
    states, rng = [], []
    for name, options in (("without", QUIET), ("with", scored)):
        train_encoder(config, shards=groups, out=tmp_path / name, options=options)
        states.append(torch.load(tmp_path / name / "checkpoint.pt", weights_only=True))
        rng.append(torch.random.get_rng_state())
    for part in ("encoder", "head"):  # weights, and the running statistics of batch normalisation
        assert all(torch.equal(states[0][part][key], states[1][part][key]) for key in states[0][part])
    for one, other in zip(*(state["optimizer"]["state"].values() for state in states), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(*rng)
    losses = [[record["loss"] for record in read_metrics(tmp_path / name)] for name in ("without", "with")]
    assert losses[0] == losses[1]
    assert not any("knn" in record for record in read_metrics(tmp_path / "without"))


def test_scores_are_recorded_and_the_last_is_that_of_contrast_eval(
    groups: Path, labelled: Path, tmp_path: Path, config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(config, steps=10)
    options = dataclasses.replace(QUIET, knn_every=4, knn_data=str(labelled), quiet=False, tensorboard=True)
    train_encoder(config, shards=groups, out=tmp_path / "run", options=options)
    scores = {record["step"]: record["knn"] for record in read_metrics(tmp_path / "run") if "knn" in record}
    assert list(scores) == [4, 8, 10]
    assert f"knn {scores[10]:.1f}%" in capsys.readouterr().err
    evaluation = evaluate_run(tmp_path / "run", data=str(labelled), k=10, scores=("knn",), device="cpu", quiet=True)
    assert evaluation.tests[0].scores["trained"].knn == scores[10]
    assert "kNN accuracy while training" in write_report(tmp_path / "run", tmp_path / "page.html").read_text()


def test_a_resumed_run_scores_the_same_steps(
    groups: Path, labelled: Path, tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, steps=8)
    options = dataclasses.replace(QUIET, knn_every=2, knn_data=str(labelled))
    train_encoder(config, shards=groups, out=tmp_path / "whole", options=options)

    score_at = online.OnlineKnn.score_at

    def stop_at_six(self: online.OnlineKnn, step: int, encoder: torch.nn.Module) -> dict[str, float]:
        if step == 6:
            raise KeyboardInterrupt
        return score_at(self, step, encoder)

    monkeypatch.setattr(online.OnlineKnn, "score_at", stop_at_six)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(config, shards=groups, out=tmp_path / "stopped", options=options)
    monkeypatch.setattr(online.OnlineKnn, "score_at", score_at)
    train_encoder(config, shards=groups, out=tmp_path / "stopped", options=options)
    whole, stopped = (
        [(record["step"], record["knn"]) for record in read_metrics(tmp_path / name)] for name in ("whole", "stopped")
    )
    assert whole == stopped and len(whole) == 4


def test_the_subset_is_small_and_balanced(
    groups: Path, make_groups: Callable[..., Path], config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "NUM_TRAIN", 40)
    monkeypatch.setattr(online, "NUM_TEST", 12)
    seen: list[int] = []
    extract = online.extract_features
    monkeypatch.setattr(
        online,
        "extract_features",
        lambda encoder, pixels, **kw: (seen.append(len(pixels)), extract(encoder, pixels, **kw))[1],
    )
    options = dataclasses.replace(QUIET, knn_every=6, knn_data=str(make_groups(num_groups=400, seed=3)))
    train_encoder(config, shards=groups, out=tmp_path / "run", options=options)
    assert seen == [40, 12]


def write_photos(folder: Path) -> Path:
    """Three classes of 60, 30 and 10 pictures."""
    rng = np.random.default_rng(0)
    for name, count in (("a", 60), ("b", 30), ("c", 10)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_only_what_is_scored_is_decoded_and_it_is_the_subset_of_all(
    kind: str, make_groups: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_photos(tmp_path / "photos") if kind == "folder" else make_groups(num_groups=100, seed=3)
    train, test, _ = align_classes(*load_pair(str(source), image_size=16))
    expected = train.first_of_each_class(24), test.first_of_each_class(5)
    monkeypatch.setattr(online, "NUM_TRAIN", 24)
    monkeypatch.setattr(online, "NUM_TEST", 5)
    decoded: list[int] = []
    read_image, batch = sources.read_image, GroupDataset.batch
    monkeypatch.setattr(sources, "read_image", lambda path: (decoded.append(1), read_image(path))[1])
    monkeypatch.setattr(GroupDataset, "batch", lambda self, rows: (decoded.append(len(rows)), batch(self, rows))[1])
    recipe = GroupDataset(make_groups(seed=77)).manifest.recipe
    trained_on = TrainedOn(groups=SeenGroups(recipe=recipe, num_groups=1), class_names={})
    knn = watch(source, trained_on)
    assert sum(decoded) == 24 + 5
    for found, wanted in zip((knn._train, knn._test), expected, strict=True):
        assert np.array_equal(found.pixels, wanted.pixels) and np.array_equal(found.labels, wanted.labels)


def test_groups_that_the_run_learns_from_are_not_tested_on(groups: Path) -> None:
    seen = SeenGroups(recipe=GroupDataset(groups).manifest.recipe, num_groups=90)
    knn = watch(groups, TrainedOn(groups=seen, class_names={}))
    assert (len(knn._train), len(knn._test)) == (90, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"knn_every": 10}, "give both --knn-every, such as 500, and --knn-data"),
        ({"knn_data": "cifar10"}, "give both --knn-every, such as 500, and --knn-data"),
        ({"knn_every": 15, "knn_data": "cifar10"}, "--knn-every 15: give a multiple of 10"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunOptions(**options)


def test_no_such_data_is_told_before_the_first_step(groups: Path, config: TrainConfig, tmp_path: Path) -> None:
    options = dataclasses.replace(QUIET, knn_every=2, knn_data="nowhere")
    with pytest.raises(ValueError, match="no folder nowhere and no torchvision dataset"):
        train_encoder(config, shards=groups, out=tmp_path / "run", options=options)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
