"""Where images for scoring come from, and that nothing of them was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shards
from contrast.evaluation.sources import load_pair
from contrast.trained_on import SeenGroups, TrainedOn
from shards.dataset import GroupDataset
from shards.errors import DamageError
from tests.contrast.noise_pictures import write_noise


def picture(value: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, 9))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of twenty pictures, and a stray file that is no class."""
    for label, name in enumerate(("wolf", "ant")):
        (tmp_path / name).mkdir()
        for i in range(20):
            picture(100 * label + i).save(tmp_path / name / f"{i:02d}.png")
    (tmp_path / "index.html").write_text("<html>")
    (tmp_path / "wolf" / "notes.txt").write_text("no picture")
    return tmp_path


def test_an_image_folder_is_split_by_name_order_and_classes_are_sorted(folder: Path) -> None:
    train, test = load_pair(str(folder), image_size=8)
    assert train.class_names == test.class_names == ("ant", "wolf")
    assert (len(train), len(test)) == (36, 4)
    assert test.pixels[:, 0, 0, 0].tolist() == [109, 119, 9, 19]  # the last of every ten, by name
    assert test.labels.tolist() == [0, 0, 1, 1]
    seen = {image.tobytes() for image in train.pixels}
    assert not seen & {image.tobytes() for image in test.pixels}


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_an_image_folder_with_its_own_split_keeps_it(tmp_path: Path, test_name: str) -> None:
    for split, count, first in (("train", 3, 0), (test_name, 2, 10)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                picture(first + i).save(tmp_path / split / name / f"{i}.png")
    train, test = load_pair(str(tmp_path), image_size=8)
    assert (len(train), len(test)) == (6, 4)


def test_pictures_of_other_sizes_are_resized_and_cut_to_the_centre(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(10):
            wide = Image.new("RGB", (40, 20), (0, 0, 20 * i))
            wide.paste((255, 255, 255), (10, 0, 30, 20))
            wide.save(tmp_path / name / f"{i}.png")
    train, _ = load_pair(str(tmp_path), image_size=10)
    assert train.pixels.shape == (18, 10, 10, 3)
    assert train.pixels[:, :, 2:8].min() == 255  # the white centre fills the square


@pytest.mark.parametrize("part", ["train", "val"])
def test_one_part_of_a_folder_is_no_source(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own test images would be a tenth of it, and those that are there would lie beside it untested."""
    for split in ("train", "val"):
        write_noise(tmp_path / split, seed=len(split))
    with pytest.raises(ValueError, match=rf"{part} is one part of .*: give that folder, whose val part is tested on"):
        load_pair(str(tmp_path / part), image_size=8)
    monkeypatch.chdir(tmp_path / part)
    with pytest.raises(ValueError, match="is one part of"):
        load_pair(".", image_size=8)


def test_the_folder_that_one_is_in_has_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert [part.name for part in load_pair(".", image_size=8)] == [f"{folder.name} train", f"{folder.name} test"]


def test_an_image_that_does_not_decode_is_named(folder: Path) -> None:
    (folder / "ant" / "03.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(DamageError, match=r"ant/03\.png does not decode"):
        load_pair(str(folder), image_size=8)


def test_empty_and_missing_classes_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: a class without images"):
        load_pair(str(folder), image_size=8)
    with pytest.raises(ValueError, match="one folder per class"):
        load_pair(str(tmp_path_factory.mktemp("bare")), image_size=8)
    with pytest.raises(ValueError, match="no folder nowhere and no torchvision dataset of that name"):
        load_pair("nowhere", image_size=8)


def test_shards_are_cut_by_index_range(groups: Path) -> None:
    dataset = GroupDataset(groups)
    train, test = load_pair(str(groups), image_size=16)
    assert (len(train), len(test)) == (77, 19)
    assert not test.is_real and "77…95" in test.name
    assert np.array_equal(test.pixels, dataset.batch(range(77, 96))[0][:, 0])  # the anchors
    assert [test.class_names[label] for label in test.labels] == [dataset[i].class_name for i in range(77, 96)]


def test_two_sources(groups: Path, folder: Path) -> None:
    train, test = load_pair(str(folder), data_train=str(groups), image_size=16)
    assert len(train) == 96 and not train.is_real
    assert len(test) == 4 and test.is_real and test.pixels.shape[1] == 16


# ---------------------------------------------------------------------------------------------------------------------
# Real images that were packed into shards


def test_packed_real_images_are_real_and_held_apart_from_what_was_trained_on(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packed = tmp_path_factory.mktemp("packed")
    shards.from_images(folder, out=packed / "train", quiet=True)
    shards.from_images(folder, out=packed / "test", split="test", quiet=True)
    train, test = load_pair(str(packed / "test"), data_train=str(packed / "train"), image_size=8)
    assert test.is_real and train.is_real and (len(train), len(test)) == (36, 4)
    assert test.name.startswith("images 0…3 of")
    as_folder = load_pair(str(folder), image_size=8)
    for part, plain in zip((train, test), as_folder, strict=True):
        assert sorted(image.tobytes() for image in part.pixels) == sorted(image.tobytes() for image in plain.pixels)
    dataset = GroupDataset(packed / "train")
    seen = TrainedOn(groups=SeenGroups(recipe=dataset.manifest.recipe, num_groups=30), class_names={})
    _, rest = load_pair(str(packed / "train"), image_size=8, trained_on=seen)
    assert rest.name.startswith("images 30…35 of")


def test_too_few_groups_to_hold_some_out_are_said_to_be_too_few(make_groups: Callable[..., Path]) -> None:
    few, enough = (make_groups(num_groups=count) for count in (4, 5))
    with pytest.raises(ValueError, match="a fifth of its groups is held out for testing, and 4 are too few for that"):
        load_pair(str(few), image_size=16)
    train, test = load_pair(str(enough), image_size=16)
    assert (len(train), len(test)) == (4, 1)
    assert len(load_pair(str(few), data_train=str(make_groups(seed=1)), image_size=16)[1]) == 4
