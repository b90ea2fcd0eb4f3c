"""The judge of label agreement, and the Fréchet distance against closed forms."""

from __future__ import annotations

import classifier
import numpy as np
import pytest
import torch


def test_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((200_000, 3)) * [1, 2, 3]
    b = rng.standard_normal((200_000, 3)) * [2, 2, 1] + [1, 0, 0]
    # For diagonal covariances: the squared distance of the means plus that of the standard deviations.
    assert classifier.frechet_distance(a, b) == pytest.approx(1 + 1 + 0 + 4, abs=0.08)
    assert classifier.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_agrees_with_the_matrix_root() -> None:
    from scipy import linalg

    rng = np.random.default_rng(1)
    a = rng.standard_normal((400, 12)) @ rng.standard_normal((12, 12))
    b = rng.standard_normal((300, 12)) @ rng.standard_normal((12, 12)) + 0.3
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert classifier.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_fewer_samples_than_features() -> None:
    rng = np.random.default_rng(2)
    assert np.isfinite(classifier.frechet_distance(rng.standard_normal((20, 64)), rng.standard_normal((30, 64))))


def test_it_learns_and_loads_again(tmp_path) -> None:
    """Two classes that differ in colour are told apart after a few steps, and the saved weights say the same."""
    from click.testing import CliRunner

    rng = np.random.default_rng(0)
    labels = np.arange(1024, dtype=np.uint8) % 2
    images = rng.integers(0, 120, (1024, 32, 32, 3), dtype=np.uint8)
    images[labels == 1, :, :, 0] += 120
    for split, count in (("train", 1024), ("test", 64)):
        np.save(tmp_path / f"{split}-images.npy", images[:count])
        np.save(tmp_path / f"{split}-labels.npy", labels[:count])
    weights = tmp_path / "weights.safetensors"
    options = [
        "--data",
        str(tmp_path),
        "--out",
        str(weights),
        "--epochs",
        "4",
        "--batch-size",
        "64",
        "--width",
        "4",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(classifier.main, options)
    assert result.exit_code == 0, result.output
    assert float(result.stdout.rpartition(": ")[2]) > 0.9
    score = classifier.score(
        weights,
        torch.from_numpy(images[:200]),
        torch.from_numpy(labels[:200]).long(),
        torch.from_numpy(images[200:400]),
    )
    assert score["label_agreement"] > 0.9
    wrong = classifier.score(
        weights,
        torch.from_numpy(images[:200]),
        1 - torch.from_numpy(labels[:200]).long(),
        torch.from_numpy(images[200:400]),
    )
    assert wrong["label_agreement"] < 0.1
    assert wrong["frechet_classifier"] == score["frechet_classifier"]
