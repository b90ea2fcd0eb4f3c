"""A run's scores: a frozen encoder, loaded whole, beside its controls; and that it has learnt something."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from contrast.config import TrainConfig
from contrast.encoders import Encoder, build_encoder
from contrast.evaluation.features import cached_features, extract_features, pixel_features
from contrast.evaluation.scoring import evaluate_run, format_table, load_encoder, untrained_encoder
from contrast.images import LabelledImages
from contrast.run_folder import read_run
from contrast.training import RunOptions, train_encoder

CPU = torch.device("cpu")
QUIET = RunOptions(device="cpu", quiet=True)


@pytest.fixture(scope="module")
def learnt(make_groups: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that has seen 400 of 600 groups, and those groups."""
    shards = make_groups(num_groups=600, shard_size=300)
    run = tmp_path_factory.mktemp("learnt") / "run"
    config = TrainConfig(steps=80, batch_size=64, objective="supcon", temperature=0.2, head_hidden_dim=64, head_dim=32)
    train_encoder(config, shards=shards, n=400, out=run, options=QUIET)
    return run, shards


def some_images(count: int = 30) -> LabelledImages:
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 16, 16, 3), dtype=np.uint8)
    return LabelledImages(
        name="noise", pixels=pixels, labels=np.zeros(count, np.int64), class_names=("a",), is_real=True
    )


def test_the_trained_encoder_beats_both_controls_on_groups_it_has_not_seen(learnt: tuple[Path, Path]) -> None:
    run, shards = learnt
    evaluation = evaluate_run(run, data=str(shards), device="cpu", quiet=True)
    scores = evaluation.scores
    assert scores["trained"].knn > max(scores["pixels"].knn, scores["random"].knn)
    assert scores["trained"].linear > max(scores["pixels"].linear, scores["random"].linear) + 20
    assert (evaluation.num_train, evaluation.num_test, evaluation.is_real) == (480, 120, False)
    assert "generated anchors 480…599" in evaluation.evaluated_on
    assert any("no score on photographs" in note for note in evaluation.notes)
    written = json.loads((run / "evaluate.json").read_text())
    assert written["scores"]["trained"]["knn"] == scores["trained"].knn
    table = format_table(evaluation)
    assert f"{scores['random'].linear:.1f}" in table and "generated" in table


def test_scoring_again_gives_the_same_and_leaves_the_run_as_it_was(learnt: tuple[Path, Path]) -> None:
    run, shards = learnt
    before = (run / "checkpoint.pt").read_bytes()
    first, second = (evaluate_run(run, data=str(shards), num_train=100, device="cpu", quiet=True) for _ in range(2))
    assert first.scores == second.scores and first.num_train == 100
    assert (run / "checkpoint.pt").read_bytes() == before


def test_features_come_from_the_frozen_backbone() -> None:
    encoder = build_encoder("convnet-small", image_size=16).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    images = some_images()
    features = extract_features(encoder, images.pixels, device=CPU, precision="float32")
    assert features.shape == (30, 512) and features.dtype == np.float32
    assert encoder.training  # as it came
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    alone = extract_features(encoder, images.pixels[:1], device=CPU, precision="float32")
    np.testing.assert_allclose(alone, features[:1], atol=1e-5)  # no statistic of the batch is in it
    encoder.eval()
    inputs = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).float() / 255
    np.testing.assert_allclose(features, encoder(inputs).detach().numpy(), atol=1e-5)


def test_features_are_cached_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, images: (calls.append(len(images)), forward(self, images))[1])
    encoder, images = build_encoder("convnet-small", image_size=16), some_images()
    first = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    again = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    assert calls == [30] and np.array_equal(first, again)
    with torch.no_grad():
        next(encoder.parameters())[0, 0, 0, 0] += 1  # one weight of a million
    changed = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    assert calls == [30, 30] and not np.array_equal(first, changed)
    other = dataclasses.replace(images, pixels=images.pixels ^ 1)
    cached_features(encoder, other, folder=tmp_path, device=CPU, precision="float32")
    assert len(calls) == 3
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])  # damaged copies are computed again
    recomputed = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    assert np.array_equal(recomputed, changed) and len(calls) == 4


def test_pixels_are_compared_by_correlation() -> None:
    pixels = some_images(4).pixels // 2
    features, brighter = pixel_features(pixels), pixel_features(pixels + 100)
    assert features.shape == (4, 16 * 16 * 3)
    np.testing.assert_allclose(features, brighter, atol=1e-6)
    np.testing.assert_allclose(features.mean(axis=1), 0, atol=1e-6)


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


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, groups: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a run \(no config\.json\)"):
        evaluate_run(tmp_path, data=str(groups), device="cpu", quiet=True)


def test_an_unfinished_run_is_scored_and_said_to_be_unfinished(learnt: tuple[Path, Path], tmp_path: Path) -> None:
    run, shards = learnt
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**state, "step": 40}, tmp_path / "checkpoint.pt")
    evaluation = evaluate_run(tmp_path, data=str(shards), num_train=60, device="cpu", quiet=True)
    assert "the run is not finished: step 40 of 80" in evaluation.notes
