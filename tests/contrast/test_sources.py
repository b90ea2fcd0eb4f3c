"""Where images for scoring come from, and that nothing of them was trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

import contrast
import shards
from contrast.config import TrainConfig
from contrast.evaluation.groups import load_groups
from contrast.evaluation.overlap import find_copies
from contrast.evaluation.sources import load_pair
from contrast.images import LabelledImages
from contrast.run_folder import RunRecord, open_run, read_run
from contrast.trained_on import TrainedOn, describe_groups, hash_anchors, hash_latents
from shards.dataset import GroupDataset
from shards.errors import DamageError


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


def write_noise(folder: Path, *, seed: int) -> Path:
    """Two classes of ten pictures, none of them like those of another seed."""
    rng = np.random.default_rng(seed)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def trained_on(dataset: GroupDataset, num_groups: int) -> TrainedOn:
    recipe_id = dataset.manifest.recipe.id
    return TrainedOn(recipe_id=recipe_id, num_groups=num_groups, num_images=2, image_size=16, class_names={})


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
def test_one_part_of_a_folder_is_no_source(tmp_path: Path, part: str) -> None:
    """Its own test images would be a tenth of it, and those that are there would lie beside it untested."""
    for split in ("train", "val"):
        write_noise(tmp_path / split, seed=len(split))
    with pytest.raises(ValueError, match=rf"{part} is one part of .*: give that folder, whose val part is tested on"):
        load_pair(str(tmp_path / part), image_size=8)


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


def test_real_images_that_were_mixed_into_training_are_not_tested_on(groups: Path) -> None:
    recipe_id = GroupDataset(groups).manifest.recipe.id
    generated = TrainedOn(recipe_id="0" * 64, num_groups=500, num_images=2, image_size=16, class_names={})
    mixed = dataclasses.replace(generated, mixed_recipe_id=recipe_id, mixed_num_groups=90)
    assert len(load_pair(str(groups), image_size=16, trained_on=generated)[1]) == 19
    assert len(load_pair(str(groups), image_size=16, trained_on=mixed)[1]) == 6


def test_groups_that_were_trained_on_are_not_tested_on(groups: Path) -> None:
    dataset = GroupDataset(groups)
    train, test = load_pair(str(groups), image_size=16, trained_on=trained_on(dataset, 90))
    assert (len(train), len(test)) == (90, 6)
    with pytest.raises(ValueError, match="trained on all of its 96 groups"):
        load_pair(str(groups), image_size=16, trained_on=trained_on(dataset, 96))
    with pytest.raises(ValueError, match="trained on all of its 96 groups"):
        load_pair(str(groups), data_train=str(groups), image_size=16, trained_on=trained_on(dataset, 1000))


def test_labels_come_from_no_image_that_is_tested_on(groups: Path, make_groups: Callable[..., Path]) -> None:
    train, test = load_pair(str(groups), data_train=f"{groups}/", image_size=16)
    assert (len(train), len(test)) == (77, 19)
    seen = {image.tobytes() for image in train.pixels}
    assert not seen & {image.tobytes() for image in test.pixels}
    longer = make_groups(num_groups=120, policy="shifted")  # the same anchors, other views
    train, test = load_pair(str(groups), data_train=str(longer), image_size=16)
    assert (len(train), len(test)) == (77, 19)
    shorter = make_groups(num_groups=20)
    train, test = load_pair(str(groups), data_train=str(shorter), image_size=16)
    assert (len(train), len(test)) == (20, 19)
    train, test = load_pair(str(groups), data_train=str(make_groups(num_groups=20, seed=1)), image_size=16)
    assert (len(train), len(test)) == (20, 96)


@pytest.mark.parametrize("settings", [{"policy": "shifted"}, {"classes": (0, 1, 3)}], ids=["views", "classes"])
def test_anchors_seen_in_a_dataset_with_other_views_or_classes_are_not_tested_on(
    groups: Path, make_groups: Callable[..., Path], settings: dict[str, Any]
) -> None:
    other = GroupDataset(make_groups(**settings))
    assert other.manifest.recipe.id != GroupDataset(groups).manifest.recipe.id
    record = TrainedOn(
        recipe_id=other.manifest.recipe.id,
        num_groups=90,
        num_images=2,
        image_size=16,
        class_names={},
        anchors_id=hash_anchors(other.manifest.recipe),
    )
    record = dataclasses.replace(
        record,
        latents_id=hash_latents(other.manifest.recipe),
        class_names={str(label): name for label, name in other.class_names.items()},
    )
    train, test = load_pair(str(groups), image_size=16, trained_on=record)
    assert (len(train), len(test)) == (90, 6)
    rest = tuple({0, 1, 2, 3} - set(other.classes)) or (7, 8)
    of_others = dataclasses.replace(record, class_names={str(label): "x" for label in rest})
    if "classes" in settings:  # it has seen none of the classes that are tested on
        only = make_groups(classes=(0, 1), num_groups=40)
        assert len(load_pair(str(only), image_size=16, trained_on=of_others)[1]) == 8
        with pytest.raises(ValueError, match="render more groups, or some with another --seed"):
            load_pair(str(only), image_size=16, trained_on=record)
    fresh = make_groups(seed=1)
    assert len(load_pair(str(fresh), image_size=16, trained_on=record)[1]) == 19


def test_two_sources(groups: Path, folder: Path) -> None:
    train, test = load_pair(str(folder), data_train=str(groups), image_size=16)
    assert len(train) == 96 and not train.is_real
    assert len(test) == 4 and test.is_real and test.pixels.shape[1] == 16


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
    seen = TrainedOn(
        recipe_id=dataset.manifest.recipe.id,
        num_groups=30,
        num_images=1,
        image_size=8,
        class_names={},
        anchors_id=hash_anchors(dataset.manifest.recipe),
    )
    _, rest = load_pair(str(packed / "train"), image_size=8, trained_on=seen)
    assert rest.name.startswith("images 30…35 of")


@pytest.mark.parametrize("role", ["alone", "mixed in"])
def test_real_images_are_known_again_in_another_order_codec_and_size(tmp_path: Path, groups: Path, role: str) -> None:
    photos, others = (write_noise(tmp_path / f"photos{seed}", seed=seed) for seed in range(2))
    packings = {
        "trained": {},
        "jpg": {"image_format": "jpg"},
        "small": {"size": 4},
        "reordered": {"seed": 1, "image_format": "jpg"},
    }
    for name, settings in packings.items():
        shards.from_images(photos, out=tmp_path / name, split="all", quiet=True, **settings)
    shards.from_images(others, out=tmp_path / "others", split="all", quiet=True)
    first_groups = GroupDataset(tmp_path / "trained", n=15)
    config = TrainConfig(steps=1)
    if role == "alone":
        record = describe_groups(config, first_groups, None, num_processes=1)
    else:
        record = describe_groups(config, GroupDataset(groups), first_groups, num_processes=1)
    for name in ("trained", "jpg", "small"):
        _, test = load_pair(str(tmp_path / name), data_train=str(groups), image_size=8, trained_on=record)
        assert test.name.startswith("images 15…19 of")
    with pytest.raises(ValueError, match="all of its 20 groups, or on the same images in another order, so none is"):
        load_pair(str(tmp_path / "reordered"), data_train=str(groups), image_size=8, trained_on=record)
    noted = load_groups(tmp_path / "reordered", image_size=8, trained_on=record, names=("uniformity",)).notes
    assert noted == ("the encoder was trained on up to 20 of these 20 groups",)
    _, test = load_pair(str(tmp_path / "others"), data_train=str(groups), image_size=8, trained_on=record)
    assert len(test) == 20


def test_labels_of_the_same_real_images_in_another_order_are_refused(tmp_path: Path) -> None:
    photos = write_noise(tmp_path / "photos", seed=0)
    for seed in range(2):
        shards.from_images(photos, out=tmp_path / f"packed{seed}", split="all", seed=seed, quiet=True)
    with pytest.raises(ValueError, match=r"hold the same images in two orders.*: give one of the two alone"):
        load_pair(str(tmp_path / "packed0"), data_train=str(tmp_path / "packed1"), image_size=8)
    train, test = load_pair(str(tmp_path / "packed0"), data_train=str(tmp_path / "packed0"), image_size=8)
    assert (len(train), len(test)) == (16, 4)


def test_too_few_groups_to_hold_some_out_are_said_to_be_too_few(make_groups: Callable[..., Path]) -> None:
    few, enough = (make_groups(num_groups=count) for count in (4, 5))
    with pytest.raises(ValueError, match="a fifth of its groups is held out for testing, and 4 are too few for that"):
        load_pair(str(few), image_size=16)
    train, test = load_pair(str(enough), image_size=16)
    assert (len(train), len(test)) == (4, 1)
    assert len(load_pair(str(few), data_train=str(make_groups(seed=1)), image_size=16)[1]) == 4


# ---------------------------------------------------------------------------------------------------------------------
# Tested images among the labelled ones, or among those that the encoder has seen


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_noise(tmp_path / "photos", seed=0)


def pack(photos: Path, split: str, **settings: object) -> Path:
    out = photos.with_name("-".join(["pack", split, *map(str, settings.values())]))
    shards.from_images(photos, out=out, split=split, quiet=True, **settings)
    return out


def test_labels_of_tested_images_are_refused_whatever_they_were_packed_into(photos: Path) -> None:
    labels, test = pack(photos, "all"), pack(photos, "test")
    for data in (photos, test):
        with pytest.raises(ValueError, match=r"2 of the 2 images of .* are among the labelled ones of .*--data-train"):
            load_pair(str(data), data_train=str(labels), image_size=8)
        for labelled in (photos, pack(photos, "train")):
            train, tested = load_pair(str(data), data_train=str(labelled), image_size=8)
            assert (len(train), len(tested), tested.notes) == (18, 2, ())
    with pytest.raises(ValueError, match="18 of the 20 images"):
        load_pair(str(labels), data_train=str(photos), image_size=8)


@pytest.mark.parametrize(("num_copies", "refused"), [(0, False), (1, False), (3, False), (4, True)])
def test_a_few_copies_are_noted_and_many_refused(num_copies: int, refused: bool) -> None:
    train, test = (some_noise(count, seed=seed) for seed, count in enumerate((50, 300)))
    test.pixels[:num_copies] = train.pixels[7]
    if refused:
        with pytest.raises(ValueError, match="4 of the 300 images of noise are among the labelled ones of noise"):
            find_copies(train, test)
        assert find_copies(train, dataclasses.replace(test, is_real=False)) == ()
    else:
        note = f"{num_copies} of the 300 test images are among the labelled ones, too"
        assert find_copies(train, test) == ((note,) if num_copies else ())


def test_one_copy_among_few_images_is_noted_and_two_are_refused() -> None:
    train, test = some_noise(20, seed=0), some_noise(5, seed=1)
    test.pixels[2] = train.pixels[19]
    assert find_copies(train, test) == ("1 of the 5 test images are among the labelled ones, too",)
    test.pixels[4] = train.pixels[0]
    with pytest.raises(ValueError, match="2 of the 5 images"):
        find_copies(train, test)


def some_noise(count: int, *, seed: int) -> LabelledImages:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(count) % 2
    return LabelledImages(name="noise", pixels=pixels, labels=labels, class_names=("a", "b"), is_real=True)


def test_labels_that_may_be_of_tested_images_in_another_codec_are_in_doubt(photos: Path, groups: Path) -> None:
    labels = pack(photos, "all", image_format="jpg")
    (note,) = load_pair(str(photos), data_train=str(labels), image_size=8)[1].notes
    assert note == (
        "the labels are of real images of the split 'all', these are of the split 'test': if they are the same "
        "photographs, this is no test"
    )
    assert load_pair(str(labels), image_size=8)[1].notes == ()  # held apart by their places
    assert load_pair(str(photos), data_train=str(groups), image_size=8)[1].notes == ()  # rendered


@pytest.mark.parametrize(
    ("trained", "tested", "in_doubt"),
    [
        ("all", "folder", True),
        ("all", "test", True),
        ("test", "folder", True),
        ("train", "all", True),
        ("train", "folder", False),
        ("train", "test", False),
        ("test", "train", False),
        ("all", "all", False),  # the same collection: what it has seen of it is left out
    ],
)
@pytest.mark.parametrize("role", ["alone", "mixed in"])
def test_an_encoder_that_may_have_seen_the_tested_images_as_another_split_is_in_doubt(
    photos: Path, groups: Path, trained: str, tested: str, in_doubt: bool, role: str
) -> None:
    first = GroupDataset(pack(photos, trained), n=1)
    config = TrainConfig(steps=1)
    if role == "alone":
        record = describe_groups(config, first, None, num_processes=1)
    else:
        record = describe_groups(config, GroupDataset(groups), first, num_processes=1)
    data = photos if tested == "folder" else pack(photos, tested)
    _, test = load_pair(str(data), data_train=str(groups), image_size=8, trained_on=record)
    split = "test" if tested == "folder" else tested
    recipe_id = first.manifest.recipe.id[:12]
    note = (
        f"the encoder was trained on real images of the split '{trained}' (recipe {recipe_id}), these are of the split "
        f"'{split}': if they are the same photographs, this is no test"
    )
    assert test.notes == ((note,) if in_doubt else ())
    if tested != "folder":
        noted = load_groups(data, image_size=8, trained_on=record, names=("uniformity",)).notes
        assert (note in noted) == in_doubt
    if role == "alone":
        assert load_pair(str(groups), image_size=8, trained_on=record)[1].notes == ()  # rendered


def test_a_run_from_before_splits_were_recorded_is_read_and_raises_no_doubt(photos: Path, tmp_path: Path) -> None:
    record = RunRecord(
        config=TrainConfig(steps=1),
        trained_on=describe_groups(TrainConfig(steps=1), GroupDataset(pack(photos, "all"), n=1), None, num_processes=1),
    )
    assert record.trained_on.split == "all"
    (tmp_path / "now").mkdir()
    (tmp_path / "now" / "config.json").write_text(json.dumps(record.to_json()))
    assert read_run(tmp_path / "now") == record
    data = json.loads(json.dumps(record.to_json()))
    del data["trained_on"]["split"], data["trained_on"]["mixed_split"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(data))
    before = read_run(tmp_path / "old").trained_on
    assert load_pair(str(photos), image_size=8, trained_on=before)[1].notes == ()
    (tmp_path / "old" / "evaluate.json").touch()  # scores bind the folder to its configuration
    with open_run(tmp_path / "old", record):  # the same one
        assert read_run(tmp_path / "old").trained_on == before
