"""torchvision's datasets by name, however they are split, and what is said of a damaged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

import contrast
from contrast.evaluation.sources import load_pair
from shards.errors import DamageError


def raise_(error: Exception) -> None:
    raise error


class TinyDigits:
    classes = ("zero", "one")
    first = 0

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        assert download
        self.count, self.first = (6, 0) if train else (4, 100)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.new("L", (28, 28), self.first + row), row % 2


class OtherSplits(TinyDigits):
    """Its test part is called valid, and its classes are lists of synonyms."""

    classes = (("tench", "Tinca tinca"), ("crane", "bird/wader"))

    def __init__(self, root: str, split: str = "train") -> None:
        if split not in ("train", "valid"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        self.count, self.first = (6, 0) if split == "train" else (4, 100)


class NoSplit(TinyDigits):
    def __init__(self, root: str) -> None:
        self.count = 40


class NoClass(NoSplit):
    def __getitem__(self, row: int) -> tuple[Image.Image, dict[str, int]]:  # type: ignore[override]
        return Image.new("L", (28, 28), row), {"boxes": 1}


@pytest.fixture
def torchvision_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known names that fetch nothing."""
    sets = {"MNIST": TinyDigits, "Country211": OtherSplits, "Caltech101": NoSplit, "VOCDetection": NoClass}
    for name, stand_in in sets.items():
        monkeypatch.setattr(torchvision.datasets, name, stand_in)


def test_torchvision_by_name(tmp_path: Path, torchvision_sets: None) -> None:
    train, test = load_pair("mnist", image_size=14, data_root=tmp_path)
    assert (len(train), len(test), test.name) == (6, 4, "MNIST test")
    assert test.class_names == ("zero", "one") and test.labels.tolist() == [0, 1, 0, 1]
    assert test.pixels.shape == (4, 14, 14, 3) and test.pixels[3].max() == 103


def test_torchvision_s_other_ways_to_split(tmp_path: Path, torchvision_sets: None) -> None:
    train, test = load_pair("Country211", image_size=14, data_root=tmp_path)
    assert (len(train), len(test)) == (6, 4) and test.class_names == ("tench, Tinca tinca", "crane, bird/wader")
    train, test = load_pair("Caltech101", image_size=14, data_root=tmp_path)  # every tenth of a class, as in folders
    assert (len(train), len(test)) == (36, 4) and test.pixels[:, 0, 0, 0].tolist() == [18, 19, 38, 39]
    with pytest.raises(ValueError, match="VOCDetection has no single class per image: give an image folder"):
        load_pair("VOCDetection", image_size=14, data_root=tmp_path)


def test_an_image_of_torchvision_s_that_is_damaged_or_deep_is_named(
    tmp_path: Path, torchvision_sets: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_damaged(dataset: TinyDigits, row: int) -> tuple[Image.Image, int]:
        if row == 2:
            raise OSError("image file is truncated")
        return Image.new("L", (28, 28), row), row % 2

    monkeypatch.setattr(TinyDigits, "__getitem__", open_damaged)
    with pytest.raises(DamageError, match=r"image 2 of torchvision's MNIST does not decode \(image file is truncated"):
        load_pair("mnist", image_size=14, data_root=tmp_path)
    monkeypatch.setattr(
        TinyDigits, "__getitem__", lambda dataset, row: raise_(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(PermissionError):
        load_pair("mnist", image_size=14, data_root=tmp_path)
    monkeypatch.setattr(TinyDigits, "__getitem__", lambda dataset, row: raise_(ValueError("several labels")))
    with pytest.raises(ValueError, match="MNIST has no single class per image"):
        load_pair("mnist", image_size=14, data_root=tmp_path)
    deep = Image.fromarray(np.full((28, 28), 1000, np.uint16))
    monkeypatch.setattr(TinyDigits, "__getitem__", lambda dataset, row: (deep, row % 2))
    with pytest.raises(DamageError, match=r"^image 0 of torchvision's MNIST holds 16-bit grey levels: convert it"):
        load_pair("mnist", image_size=14, data_root=tmp_path)


@pytest.mark.parametrize("name", ["MNIST", "Country211", "Caltech101"])
def test_as_an_image_folder_it_has_the_same_two_parts(name: str, tmp_path: Path, torchvision_sets: None) -> None:
    counts = contrast.data.images(name, out=tmp_path / "d", root=tmp_path, quiet=True)
    given = load_pair(name, image_size=28, data_root=tmp_path)
    again = load_pair(str(tmp_path / "d"), image_size=28)
    for images, part, split in zip(given, again, ("train", "test"), strict=True):
        assert counts[split] == len(images) == len(part)
        order = np.argsort(part.pixels[:, 0, 0, 0], kind="stable")
        assert np.array_equal(part.pixels[order], images.pixels)
    with pytest.raises(ValueError, match="is there already"):
        contrast.data.images(name, out=tmp_path / "d", root=tmp_path, quiet=True)
    assert not list(tmp_path.glob(".*.tmp"))
