"""Images that an encoder has seen, or whose labels are used, are not tested on, by recipe, collection and pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shards
from contrast.config import TrainConfig
from contrast.evaluation.groups import load_groups
from contrast.evaluation.overlap import find_copies, num_groups_seen
from contrast.evaluation.sources import load_pair
from contrast.images import LabelledImages
from contrast.trained_on import SeenGroups, TrainedOn, describe_groups
from shards.dataset import GroupDataset
from tests.contrast.noise_pictures import write_noise


def trained_on(dataset: GroupDataset, num_groups: int) -> TrainedOn:
    return TrainedOn(groups=SeenGroups(recipe=dataset.manifest.recipe, num_groups=num_groups), class_names={})


def test_real_images_that_were_mixed_into_training_are_not_tested_on(groups: Path) -> None:
    dataset = GroupDataset(groups)
    unrelated = dataclasses.replace(dataset.manifest.recipe, seed=77)
    generated = TrainedOn(groups=SeenGroups(recipe=unrelated, num_groups=500), class_names={})
    mixed = dataclasses.replace(generated, real=SeenGroups(recipe=dataset.manifest.recipe, num_groups=90))
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
    record = trained_on(other, 90)
    train, test = load_pair(str(groups), image_size=16, trained_on=record)
    assert (len(train), len(test)) == (90, 6)
    rest = tuple({0, 1, 2, 3} - set(other.classes)) or (7, 8)
    strangers = dataclasses.replace(other.manifest.recipe, classes=rest)
    of_others = TrainedOn(groups=SeenGroups(recipe=strangers, num_groups=90), class_names={})
    if "classes" in settings:  # it has seen none of the classes that are tested on
        only = make_groups(classes=(0, 1), num_groups=40)
        assert len(load_pair(str(only), image_size=16, trained_on=of_others)[1]) == 8
        with pytest.raises(ValueError, match="render more groups, or some with another --seed"):
            load_pair(str(only), image_size=16, trained_on=record)
    fresh = make_groups(seed=1)
    assert len(load_pair(str(fresh), image_size=16, trained_on=record)[1]) == 19


def test_anchors_seen_under_other_class_weights_count_as_seen(groups: Path) -> None:
    dataset = GroupDataset(groups)
    recipe = dataset.manifest.recipe
    weighted = dataclasses.replace(recipe, source={**recipe.source, "class_weights": [10, 1, 1, 1]})
    seen = TrainedOn(groups=SeenGroups(recipe=weighted, num_groups=90), class_names={})
    assert num_groups_seen(seen, dataset) == 90


@pytest.mark.parametrize("role", ["alone", "mixed in"])
def test_real_images_are_known_again_in_another_order_codec_and_size(tmp_path: Path, groups: Path, role: str) -> None:
    photos, others = (write_noise(tmp_path / f"photos{seed}", seed=seed) for seed in range(2))
    packings = {
        "trained": {},
        "jpg": {"format": "jpg"},
        "small": {"size": 4},
        "reordered": {"seed": 1, "format": "jpg"},
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
    labels = pack(photos, "all", format="jpg")
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
