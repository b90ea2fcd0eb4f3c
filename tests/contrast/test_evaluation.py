"""A run's scores: a frozen encoder, loaded whole, beside its controls; and that it has learnt something."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contrast.checkpoint import load_checkpoint, save_checkpoint
from contrast.config import TrainConfig
from contrast.encoders import build_encoder
from contrast.evaluation import scoring
from contrast.evaluation.features import cached_features, weights_sha256
from contrast.evaluation.results import Evaluation, read_evaluation, write_evaluation
from contrast.evaluation.scoring import evaluate_run, load_encoder, untrained_encoder
from contrast.evaluation.tables import format_tables
from contrast.run_folder import read_run
from contrast.run_options import RunOptions
from contrast.training import train_encoder
from shards import from_images
from shards.recipe import Recipe

QUIET = RunOptions(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def learnt(make_groups: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that has seen 400 of 600 groups, and those groups."""
    shards = make_groups(num_groups=600, shard_size=300)
    run = tmp_path_factory.mktemp("learnt") / "run"
    config = TrainConfig(steps=80, batch_size=64, objective="supcon", temperature=0.2, head_hidden_dim=64, head_dim=32)
    train_encoder(config, shards=shards, n=400, out=run, options=QUIET)
    return run, shards


def copy_as_of_size(run: Path, out: Path, *, image_size: int) -> None:
    """The run as if its images had that size: the encoder of this family takes any."""
    config = json.loads((run / "config.json").read_text())
    seen = config["trained_on"]
    seen["recipe"]["image"]["size"] = image_size
    seen["recipe_id"] = Recipe.from_json(seen["recipe"]).id
    (out / "config.json").write_text(json.dumps(config))
    save_checkpoint(out / "checkpoint.pt", load_checkpoint(run / "checkpoint.pt") | {"trained_on": seen})


def test_the_trained_encoder_beats_both_controls_on_groups_it_has_not_seen(learnt: tuple[Path, Path]) -> None:
    run, shards = learnt
    evaluation = evaluate_run(run, data=str(shards), device="cpu", quiet=True)
    (test,) = evaluation.tests
    scores = test.scores
    assert scores["trained"].knn > max(scores["pixels"].knn, scores["random"].knn)
    assert scores["trained"].linear > max(scores["pixels"].linear, scores["random"].linear) + 20
    assert (test.num_train, test.num_test, test.is_real) == (480, 120, False)
    assert "generated anchors 480…599" in test.evaluated_on
    assert any("no score on photographs" in note for note in test.notes)
    assert (test.k, list(scores["trained"].knn_by_k)) == (10, ["1", "10", "20", "200"])
    assert scores["trained"].knn == scores["trained"].knn_by_k["10"]
    written = json.loads((run / "evaluate.json").read_text())
    assert written["format"] == 3 and written["groups"] is None
    assert written["tests"][0]["scores"]["trained"]["knn"] == scores["trained"].knn
    assert "logistic" not in written["tests"][0]["scores"]["trained"]  # what was not asked for is not there
    assert read_evaluation(run) == evaluation
    assert evaluation.weights_sha256 == weights_sha256(load_encoder(run, read_run(run))[0])
    table = format_tables(evaluation)
    assert f"{scores['random'].linear:.1f}" in table and f"{test.evaluated_on}, 4 classes" in table


def test_scoring_again_gives_the_same_and_leaves_the_run_as_it_was(learnt: tuple[Path, Path]) -> None:
    run, shards = learnt
    before = (run / "checkpoint.pt").read_bytes()
    options = {"num_train": 100, "controls": False, "device": "cpu", "quiet": True}
    first, second = (evaluate_run(run, data=str(shards), **options) for _ in range(2))
    assert first.tests == second.tests and first.tests[0].num_train == 100
    assert first.tests[0].notes[-1] == "no kNN of more than 20 neighbours: there are 100 training labels"
    assert (run / "checkpoint.pt").read_bytes() == before


def test_features_are_taken_in_the_precision_of_the_run(
    groups: Path, tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def watched(*given: Any, **named: Any) -> np.ndarray:
        asked.append(named["precision"])
        return cached_features(*given, **named)

    monkeypatch.setattr(scoring, "cached_features", watched)
    config = dataclasses.replace(config, steps=1, precision="bfloat16")
    train_encoder(config, shards=groups, n=40, out=tmp_path, options=QUIET)
    evaluate_run(tmp_path, data=str(groups), scores=("knn",), k=1, device="cpu", quiet=True)
    assert asked == ["bfloat16"] * 4  # labelled and tested images, untrained and trained


def test_a_note_says_at_which_size_pixels_were_taken(learnt: tuple[Path, Path], tmp_path: Path) -> None:
    run, shards = learnt
    copy_as_of_size(run, tmp_path, image_size=40)
    options = {"data": str(shards), "num_train": 40, "scores": ("knn",), "k": 1, "device": "cpu", "quiet": True}
    note = "raw pixels are those of the images shrunk to 32 px"
    assert note in evaluate_run(tmp_path, **options).tests[0].notes
    assert note not in evaluate_run(tmp_path, controls=False, **options).tests[0].notes
    assert note not in evaluate_run(run, **options).tests[0].notes


def test_the_random_control_is_what_the_run_started_from(learnt: tuple[Path, Path]) -> None:
    run, _ = learnt
    record = read_run(run)
    state = torch.random.get_rng_state()
    random = untrained_encoder(record).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(record.config.seed)
    start = build_encoder(record.config.encoder, image_size=16).state_dict()
    assert all(torch.equal(random[name], start[name]) for name in start)
    trained, step = load_encoder(run, record)
    assert step == 80
    assert not torch.equal(trained.state_dict()["backbone.0.weight"], random["backbone.0.weight"])


def test_a_checkpoint_of_another_encoder_is_not_scored(learnt: tuple[Path, Path], tmp_path: Path) -> None:
    run, shards = learnt
    for name in ("config.json", "checkpoint.pt"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del state["encoder"]["backbone.0.weight"]
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"another encoder: the encoder convnet-small has backbone\.0\.weight"):
        evaluate_run(tmp_path, data=str(shards), device="cpu", quiet=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["encoder"] = "resnet18"
    config["config"]["steps"] = 7  # comes before the encoder in the file, and says less
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"another encoder .encoder: convnet-small in the checkpoint, resnet18 in config"
    ):
        evaluate_run(tmp_path, data=str(shards), device="cpu", quiet=True)
    assert not (tmp_path / "evaluate.json").exists()


def test_scores_that_cannot_be_written_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Evaluation(run="run", encoder="", precision="", step=1, weights_sha256="", tests=(), groups=None, seconds=1.0)
    write_evaluation(tmp_path, old)
    monkeypatch.setattr(os, "replace", lambda source, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_evaluation(tmp_path, dataclasses.replace(old, step=2))
    assert read_evaluation(tmp_path) == old and [path.name for path in tmp_path.iterdir()] == ["evaluate.json"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, groups: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run \(no config\.json\)"):
        evaluate_run(tmp_path, data=str(groups), device="cpu", quiet=True)


def test_an_unfinished_run_is_scored_and_said_to_be_unfinished(learnt: tuple[Path, Path], tmp_path: Path) -> None:
    run, shards = learnt
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**state, "step": 40}, tmp_path / "checkpoint.pt")
    evaluation = evaluate_run(tmp_path, data=str(shards), num_train=60, device="cpu", quiet=True)
    assert "the run is not finished: step 40 of 80" in evaluation.tests[0].notes


def test_several_sources_and_all_scores_in_one_call(
    learnt: tuple[Path, Path], make_groups: Callable[..., Path]
) -> None:
    run, shards = learnt
    other = make_groups(num_groups=200, shard_size=100, seed=5)
    evaluation = evaluate_run(
        run,
        data=[str(shards), other],
        scores=("rankme", "fewshot", "logistic", "knn", "linear", "lidar", "alignment", "uniformity"),
        k=(3, 1),
        groups=shards,
        controls=False,
        device="cpu",
        quiet=True,
    )
    assert [test.data for test in evaluation.tests] == [str(shards), str(other)]
    for test in evaluation.tests:
        assert list(test.scores) == ["trained"]  # no controls
        score = test.scores["trained"]
        assert list(score.knn_by_k) == ["3", "1"] and test.k == 3
        assert min(score.linear, score.logistic, score.knn, score.fewshot["10"].mean) > 60
        assert list(score.fewshot) == ["1", "5", "10"] and score.fewshot["1"].interval > 0
        assert 1 < score.rankme < 512
    groups = evaluation.groups.scores["trained"]
    seen, lidar = evaluation.groups.notes
    assert seen == "the encoder was trained on 400 of these 600 groups"
    assert lidar.startswith("LiDAR of trained encoder (512): many dimensions for 600 groups of 2, so it compares only")
    assert all("few-shot" not in note for test in evaluation.tests for note in test.notes)
    few = evaluate_run(
        run, data=str(other), num_train=60, scores=("fewshot",), controls=False, device="cpu", quiet=True
    )
    assert any(note.startswith("few-shot draws of 10 from 15 images of a class") for note in few.tests[0].notes)
    assert list(groups.alignment) == ["tx", "tz", "class"] and groups.alignment["class"] < 2
    assert 1 < groups.lidar < 512 and -4 < groups.uniformity < 0
    table = format_tables(evaluation)
    for head in ("kNN 3", "kNN 1", "linear", "logistic", "1-shot", "RankMe", "LiDAR", "alignment tz", "uniformity"):
        assert head in table, head
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to score on: give --data"),
        ({"data": "cifar10", "scores": ("knn", "fid")}, "unknown score 'fid': choose among knn, linear, logistic"),
        ({"data": "cifar10", "scores": ("lidar",)}, "lidar is a score of groups: give --groups"),
        ({"groups": "x", "scores": ("knn",)}, "knn is a score of labelled images: give --data"),
        ({"data": "cifar10", "groups": "x", "scores": ("knn",)}, "--groups is given and no score uses it"),
        ({"data": "cifar10", "groups": "x", "scores": ("lidar",)}, "--data is given and no score uses it"),
        ({"data": "cifar10", "k": (1, 0)}, "k 0: give a whole number from 1 on"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate_run(tmp_path, **options, device="cpu", quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 100, "k": 200}, "k = 200 neighbours of 100 training images: use a smaller --k"),
        (
            {"num_train": 36, "scores": ("fewshot",)},
            "10 shots of a class that has 9 training images: raise --num-train",
        ),
        ({"num_train": 3}, "--num-train 3: 4 classes need a label each; ask for more"),
        ({"num_train": 7, "scores": ("linear",)}, "two training images of every class or more: raise --num-train"),
    ],
)
def test_too_few_labels_are_told_before_any_feature_is_computed(
    learnt: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, options: dict[str, object], message: str
) -> None:
    run, shards = learnt
    monkeypatch.setattr(scoring, "pixel_features", None)
    with pytest.raises(ValueError, match=message):
        evaluate_run(run, data=str(shards), **options, device="cpu", quiet=True)


def test_groups_of_one_image_have_no_lidar(
    learnt: tuple[Path, Path], make_groups: Callable[..., Path], tmp_path: Path
) -> None:
    run, _ = learnt
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    from_images(tmp_path / "photos", out=tmp_path / "packed", split="all", quiet=True)
    options = {"groups": tmp_path / "packed", "controls": False, "device": "cpu", "quiet": True}
    with pytest.raises(ValueError, match="its groups have one image, and LiDAR compares images within groups"):
        evaluate_run(run, **options)
    score = evaluate_run(run, scores=("alignment", "uniformity"), **options).groups.scores["trained"]
    assert list(score.alignment) == ["tx", "class"] and score.lidar is None and score.uniformity < 0


def test_groups_of_another_size_are_refused(learnt: tuple[Path, Path], tmp_path: Path) -> None:
    run, shards = learnt
    copy_as_of_size(run, tmp_path, image_size=32)
    with pytest.raises(ValueError, match="its images have 16 px, the encoder was trained on 32 px"):
        evaluate_run(tmp_path, groups=shards, device="cpu", quiet=True)
