"""Closed-form directions against numpy and scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

import synthgen
from synthgen.draws import draw_labels, draw_truncated_normal
from synthgen.latent_directions import analyse_activations, carry_back, factorize_weights, principal_coordinates
from synthgen.vectors import read_vectors

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of rows, whatever their signs."""
    return np.abs((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_sefa_is_what_the_weights_lengthen_most() -> None:
    module = torch.nn.Linear(7, 40)
    weights = module.weight.detach().double().numpy()
    found, shares = factorize_weights(weights, k=4)
    values, vectors = np.linalg.eigh(weights.T @ weights)
    np.testing.assert_allclose(cosines(found, vectors.T[::-1][:4]), 1, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found @ found.T, np.eye(4), rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found @ weights.T, axis=1) ** 2, values[::-1][:4], rtol=1e-9)
    np.testing.assert_allclose(shares, values[::-1][:4] / (weights**2).sum(), rtol=1e-9)
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1) > 0).all(), "signs are fixed"
    np.testing.assert_allclose(factorize_weights(-weights, k=4)[0], found, rtol=0, atol=1e-9)


@pytest.mark.parametrize("features", [6, 90], ids=["few features", "more features than rows"])
def test_principal_coordinates_are_scikit_learns(features: int) -> None:
    rows = RANDOM.normal(size=(50, features)) @ np.diag(np.linspace(3, 0.1, features))
    rows -= rows.mean(axis=0)
    found, shares = principal_coordinates(rows, k=3)
    reference = PCA(n_components=3, svd_solver="full").fit(rows)
    expected = reference.transform(rows)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=0, atol=1e-8)
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-8)


def test_carrying_back_finds_the_latents_behind_the_coordinates() -> None:
    latents = RANDOM.normal(size=(200, 5))
    directions = np.linalg.qr(RANDOM.normal(size=(5, 5)))[0][:2]
    found = carry_back(latents @ directions.T * [3.0, 0.5], latents)
    np.testing.assert_allclose(cosines(found, directions), 1, rtol=0, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-12)


def test_pca_of_a_generators_layer_against_scikit_learn(tiny_weights: Path) -> None:
    """Each class around its own mean; the same PCA and the same least squares by other people's code."""
    generator = synthgen.load_generator(weights=tiny_weights, device="cpu", dtype="float32")
    found, shares = analyse_activations(
        generator, k=3, layer=1, samples=200, truncation=0.9, seed=4, device=CPU, quiet=True
    )
    latents = 0.9 * draw_truncated_normal(seed=4, stream="directions", first=0, count=200, dim=16, bound=2.0)
    labels = draw_labels(seed=4, first=0, count=200, classes=tuple(range(10)))
    activations = generator.activations(
        torch.from_numpy(latents.astype(np.float32)), torch.from_numpy(labels), layer=1
    ).numpy()
    assert activations.shape == (200, 64 * 8 * 8)
    centred, of_latents = activations.astype(np.float64), latents.copy()
    for label in range(10):
        centred[labels == label] -= centred[labels == label].mean(axis=0)
        of_latents[labels == label] -= of_latents[labels == label].mean(axis=0)
    reference = PCA(n_components=3, svd_solver="full").fit(centred)
    expected = np.linalg.lstsq(reference.transform(centred), of_latents, rcond=None)[0]
    np.testing.assert_allclose(cosines(found, expected), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-5)


def test_the_first_layer_is_the_one_that_reads_the_latent(tiny_weights: Path) -> None:
    generator = synthgen.load_generator(weights=tiny_weights, device="cpu", dtype="float32")
    weights, labels = generator.latent_weights(), torch.zeros(4, dtype=torch.int64)
    latents = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    change = generator.activations(latents, labels, layer=0) - generator.activations(0 * latents, labels, layer=0)
    expected = (latents @ weights.T).view(4, 4, 4, -1).permute(0, 3, 1, 2).flatten(1)
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"method": "sefa"}, {"method": "pca", "layer": 1, "samples": 100}])
def test_directions_are_written_and_named(tiny_weights: Path, tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "d.safetensors"
    found = synthgen.directions(out=path, k=4, weights=tiny_weights, device="cpu", **options)  # type: ignore[arg-type]
    assert found == read_vectors(path, kind="directions")
    assert found.names == tuple(f"{options['method']}{i}" for i in range(4)) and found.matrix.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(found.matrix, axis=1), 1, rtol=1e-6)
    shares = found.settings["shares"]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-6
    if options["method"] == "sefa":
        generator = synthgen.load_generator(weights=tiny_weights, device="cpu", dtype="float32")
        _, vectors = np.linalg.eigh((generator.latent_weights().T @ generator.latent_weights()).double().numpy())
        np.testing.assert_allclose(cosines(found.matrix, vectors.T[::-1][:4]), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ica"}, "method 'ica': give one of sefa, pca"),
        ({"k": 17}, "k 17: give a whole number from 1 to 16"),
        ({"k": 0}, "k 0"),
        ({"layer": 1}, "layer belongs to pca: omit --layer"),
        ({"samples": 10}, "samples belongs to pca"),
        ({"seed": 1}, "seed belongs to pca"),
        ({"truncation": 0.5}, "truncation belongs to pca"),
        ({"method": "pca", "seed": -1}, "seed -1: give a whole number from 0 on"),
        ({"method": "pca", "layer": 5}, "layer 5: give a whole number from 0 to 4"),
        ({"method": "pca", "samples": 10}, "samples 10: give a whole number from 32"),
        ({"out": "d.npy"}, r"ends in \.safetensors"),
    ],
)
def test_wrong_requests_are_named(tiny_weights: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    standard = {"out": tmp_path / "d.safetensors", "weights": tiny_weights, "device": "cpu"}
    with pytest.raises(ValueError, match=message):
        synthgen.directions(**(standard | options))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
