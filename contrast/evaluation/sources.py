"""Where labelled images come from: CIFAR-10, any torchvision dataset, a folder of images, or our own shards.

    train, test = load_pair("cifar10", image_size=32)
    train, test = load_pair("datasets/photos", image_size=64)

Training and test images never come out of one random split: the source's own split, every tenth image of a class, or
two index ranges of a generated dataset.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

from contrast.data import default_folder, load_cifar10
from contrast.evaluation.overlap import doubt_encoder, doubt_labels, find_copies, num_groups_seen, share_anchors
from contrast.evaluation.torchvision_sets import open_torchvision
from contrast.images import LabelledImages, ListedImages
from contrast.trained_on import TrainedOn
from shards.cifar10 import is_cifar10
from shards.dataset import GroupDataset
from shards.manifest import MANIFEST_NAME
from shards.pictures import TEST_FOLDERS, fit_image, list_image_folder, read_image

HELD_OUT_SHARE = 0.2
"""Of a generated dataset, at its end."""
BLOCK_SIZE = 1000
"""Groups that are decoded with their views at a time."""


def load_pair(
    data: str,
    *,
    image_size: int,
    data_train: str | None = None,
    data_root: Path | None = None,
    trained_on: TrainedOn | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """As `list_pair`, decoded.

    Raises:
        ValueError: as there, or many tested images are among the labelled ones.
        DamageError: an image does not decode.
    """
    train, test = list_pair(
        data, image_size=image_size, data_train=data_train, data_root=data_root, trained_on=trained_on
    )
    return decode_pair(train, test)


def decode_pair(train: ListedImages, test: ListedImages) -> tuple[LabelledImages, LabelledImages]:
    """Both, the tested ones with a note where a few of them are among the labelled ones, too.

    Raises:
        ValueError: many of them are.
        DamageError: an image does not decode.
    """
    labelled, tested = train.load(), test.load()
    return labelled, replace(tested, notes=(*find_copies(labelled, tested), *tested.notes))


def list_pair(
    data: str,
    *,
    image_size: int,
    data_train: str | None = None,
    data_root: Path | None = None,
    trained_on: TrainedOn | None = None,
) -> tuple[ListedImages, ListedImages]:
    """Images whose labels a score may use, and the images that it is taken on, with notes of what is in doubt of them.

    Args:
        data: cifar10 or its folder, the name of a torchvision dataset, an image folder, or a folder of shards.
        image_size: other sizes are resized (shorter side) and cut to the centre.
        data_train: another source for the first of the two.
        data_root: where a named dataset lies.
        trained_on: what the encoder has seen; groups with its anchors are tested on only beyond those.

    Raises:
        ValueError: there is no such source, it has no labels, or nothing is left to test on.
    """
    train_source = data if data_train is None else data_train
    train_shards, test_shards = _open_shards(train_source), _open_shards(data)
    last_train = 0 if train_shards is None else len(train_shards)
    shared = False
    if test_shards is None:
        test = _list(data, "test", image_size, data_root)
    else:
        shared = train_shards is not None and share_anchors(train_shards, test_shards)
        first_test = _first_test_index(test_shards, trained_on, hold_out=shared)
        test = _from_shards(test_shards, first_test, len(test_shards), image_size)
        last_train = min(last_train, first_test) if shared else last_train
    if train_shards is None:
        train = _list(train_source, "train", image_size, data_root)
    else:
        train = _from_shards(train_shards, 0, last_train, image_size)
    notes = () if shared else doubt_labels(train_shards, test_shards)
    if trained_on is not None:
        notes += doubt_encoder(trained_on, test_shards)
    return train, replace(test, notes=notes)


def _list(data: str, split: str, size: int, root: Path | None) -> ListedImages:
    if _is_cifar10(data):
        return _from_memory(load_cifar10(root or default_folder(), split=split), size)
    folder = Path(data)
    if folder.is_dir():
        if is_cifar10(folder):
            return _from_memory(load_cifar10(folder, split=split), size)
        return _from_folder(folder, split, size)
    return _from_torchvision(data, split, size, root)


def name_source(data: str) -> str:
    """What a source is called in tables: cifar10 wherever its arrays lie, others as given, without a last slash."""
    if _is_cifar10(data) or is_cifar10(Path(data)):
        return "cifar10"
    return str(Path(data)) if Path(data).is_dir() else data


def _is_cifar10(data: str) -> bool:
    return data.lower() in ("cifar10", "cifar-10")


# ---------------------------------------------------------------------------------------------------------------------
# Our shards: labels are the generator's classes, images are the anchors


def _open_shards(data: str) -> GroupDataset | None:
    if _is_cifar10(data) or not (Path(data) / MANIFEST_NAME).exists():
        return None
    dataset = GroupDataset(data)
    if not dataset.classes:
        raise ValueError(f"{data} has no classes: score on labelled images")
    return dataset


def _first_test_index(dataset: GroupDataset, trained_on: TrainedOn | None, *, hold_out: bool) -> int:
    """Groups from here on are for testing: unseen by the encoder and, with hold_out, at the dataset's end."""
    length, is_real = len(dataset), dataset.manifest.recipe.is_real
    seen = 0 if trained_on is None else num_groups_seen(trained_on, dataset)
    if seen >= length:
        raise ValueError(
            f"{dataset.location}: the encoder was trained on all of its {length} groups"
            + (", or on the same images in another order" if is_real else "")
            + ", so none is left to test on; "
            + ("pack images that it has not seen" if is_real else "render more groups, or some with another --seed")
            + ", or train with a smaller --n"
        )
    if not hold_out:
        return seen
    num_held_out = int(length * HELD_OUT_SHARE)
    if num_held_out == 0:
        raise ValueError(
            f"{dataset.location}: a fifth of its groups is held out for testing, and {length} are too few for that; "
            "give 5 groups or more, or other images with --data-train"
        )
    return max(length - num_held_out, seen)


def _from_shards(dataset: GroupDataset, first: int, last: int, size: int) -> ListedImages:
    is_real = dataset.manifest.recipe.is_real
    ids = np.array(sorted(dataset.class_names), dtype=np.int64)
    name = f"{'images' if is_real else 'generated anchors'} {first}…{last - 1} of {dataset.location}"

    def read(rows: ndarray) -> ndarray:
        pixels = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        for start in range(0, len(rows), BLOCK_SIZE):
            anchors = dataset.batch(rows[start : start + BLOCK_SIZE])[0][:, 0]
            pixels[start : start + BLOCK_SIZE] = _fit_arrays(anchors, size)
        return pixels

    return ListedImages(
        name=_name_resized(name, dataset.image_size, size),
        rows=np.arange(first, last),
        read=read,
        labels=np.searchsorted(ids, dataset.labels[first:last]),
        class_names=tuple(dataset.class_names[int(label)] for label in ids),
        is_real=is_real,
    )


# ---------------------------------------------------------------------------------------------------------------------
# A folder of images, FOLDER/[train|test]/CLASS/*.png; torchvision, by name; CIFAR-10


def _from_folder(folder: Path, split: str, size: int) -> ListedImages:
    whole = folder.resolve().parent
    parts = [name for name in ("train", *TEST_FOLDERS) if (whole / name).is_dir()]
    if folder.resolve().name in parts and "train" in parts and len(parts) > 1:
        raise ValueError(
            f"{folder} is one part of {whole}: give that folder, whose {parts[1]} part is tested on with labels of the "
            "train part"
        )
    files, labels, class_names = list_image_folder(folder, split=split)
    return ListedImages(
        name=f"{folder.resolve().name} {split}",
        rows=np.arange(len(files)),
        read=lambda rows: _fit((read_image(files[row]) for row in rows), len(rows), size),
        labels=labels,
        class_names=class_names,
        is_real=True,
    )


def _from_torchvision(name: str, split: str, size: int, root: Path | None) -> ListedImages:
    pictures = open_torchvision(name, split=split, root=root)
    return ListedImages(
        name=f"{pictures.title} {split}",
        rows=np.arange(len(pictures)),
        read=lambda rows: _fit((pictures.read(row) for row in rows), len(rows), size),
        labels=pictures.labels,
        class_names=pictures.class_names,
        is_real=True,
    )


def _from_memory(images: LabelledImages, size: int) -> ListedImages:
    return ListedImages(
        name=_name_resized(images.name, images.pixels.shape[1], size),
        rows=np.arange(len(images)),
        read=lambda rows: _fit_arrays(images.pixels[rows], size),
        labels=images.labels,
        class_names=images.class_names,
        is_real=images.is_real,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


def _fit(pictures: Iterable[Image.Image], count: int, size: int) -> ndarray:
    pixels = np.empty((count, size, size, 3), dtype=np.uint8)
    for row, picture in enumerate(pictures):
        pixels[row] = fit_image(picture, size)
    return pixels


def _fit_arrays(pixels: ndarray, size: int) -> ndarray:
    if pixels.shape[1] == size:
        return pixels
    return _fit((Image.fromarray(image) for image in pixels), len(pixels), size)


def _name_resized(name: str, size_there: int, size: int) -> str:
    return name if size_there == size else f"{name}, resized to {size} px"
