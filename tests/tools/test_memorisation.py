"""Nearest training neighbours against scikit-learn, and a generator that copies against one that does not."""

from __future__ import annotations

from pathlib import Path

import memorisation
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import NearestNeighbors


@pytest.fixture(scope="module")
def training() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (270, 4, 4, 3), dtype=np.uint8))


def test_pixel_neighbours_are_those_of_scikit_learn_over_both_orientations(
    images: torch.Tensor, training: torch.Tensor
) -> None:
    found = memorisation.nearest_by_pixels(images, training)
    both = torch.cat([training, training.flip(2)]).flatten(1).double().numpy()
    distance, index = NearestNeighbors(n_neighbors=1).fit(both).kneighbors(images.flatten(1).double().numpy())
    np.testing.assert_allclose(found.distance, distance[:, 0] / np.sqrt(48), rtol=1e-4)
    np.testing.assert_array_equal(found.index, index[:, 0] % len(training))


def test_a_mirrored_copy_is_found(training: torch.Tensor) -> None:
    found = memorisation.nearest_by_pixels(training[7:9].flip(2), training)
    assert found.index.tolist() == [7, 8] and found.distance.max() < 0.1


def test_feature_neighbours_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    features, known = (rng.normal(size=(count, 9)).astype(np.float32) for count in (270, 300))
    found = memorisation.nearest_by_features(features, known)
    distance, index = NearestNeighbors(n_neighbors=1, metric="cosine").fit(known).kneighbors(features)
    np.testing.assert_allclose(found.distance, distance[:, 0], atol=1e-5)
    np.testing.assert_array_equal(found.index, index[:, 0])


def test_copies_stand_out_and_fresh_images_do_not(images: torch.Tensor, training: torch.Tensor) -> None:
    test = memorisation.nearest_by_pixels(images[:135], training)
    fresh = memorisation.nearest_by_pixels(images[135:], training)
    copied = memorisation.nearest_by_pixels(training[:100], training)
    assert memorisation.compare(copied, test)["samples_below_test_1%"] == 100
    assert memorisation.compare(fresh, test)["samples_below_test_1%"] < 10


def test_the_sheet_shows_the_closest_pairs(images: torch.Tensor, training: torch.Tensor, tmp_path: Path) -> None:
    neighbours = memorisation.nearest_by_pixels(images, training)
    panels = {"samples": (images, training, neighbours), "test": (images, training, neighbours)}
    memorisation.draw_sheet(tmp_path / "sheet.png", panels)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 10
