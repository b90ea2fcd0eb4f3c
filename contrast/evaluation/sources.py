"""Where labelled images come from: CIFAR-10, any torchvision dataset, a folder of images, or our own shards.

    train, test = load_pair("cifar10", image_size=32)
    train, test = load_pair("datasets/photos", image_size=64)

Training and test images never come out of one random split: the source's own split, every tenth image of a class, or
two index ranges of a generated dataset.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from contrast.data import default_folder, load_cifar10
from contrast.evaluation.overlap import doubt_encoder, doubt_labels, find_copies, num_groups_seen, share_anchors
from contrast.evaluation.torchvision_sets import open_torchvision
from contrast.images import LabelledImages
from contrast.run_folder import TrainedOn
from shards.dataset import GroupDataset
from shards.manifest import MANIFEST_NAME
from shards.pictures import fit_image, list_image_folder, read_image

HELD_OUT_SHARE = 0.2
"""Of a generated dataset, at its end."""


def load_pair(
    data: str,
    *,
    image_size: int,
    data_train: str | None = None,
    data_root: Path | None = None,
    trained_on: TrainedOn | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """Images whose labels a score may use, and the images that it is taken on, with notes of what is in doubt of them.

    Args:
        data: cifar10, the name of a torchvision dataset, an image folder, or a folder of shards.
        image_size: other sizes are resized (shorter side) and cut to the centre.
        data_train: another source for the first of the two.
        data_root: where a named dataset lies.
        trained_on: what the encoder has seen; groups with its anchors are tested on only beyond those.

    Raises:
        ValueError: there is no such source, it has no labels, nothing is left to test on, or many tested images are
            among the labelled ones.
        DamageError: an image does not decode.
    """
    train_source = data if data_train is None else data_train
    train_shards, test_shards = _open_shards(train_source), _open_shards(data)
    last_train = 0 if train_shards is None else len(train_shards)
    shared = False
    if test_shards is None:
        test = _load(data, "test", image_size, data_root)
    else:
        shared = train_shards is not None and share_anchors(train_shards, test_shards)
        first_test = _first_test_index(test_shards, trained_on, hold_out=shared)
        test = _from_shards(test_shards, first_test, len(test_shards), image_size)
        last_train = min(last_train, first_test) if shared else last_train
    if train_shards is None:
        train = _load(train_source, "train", image_size, data_root)
    else:
        train = _from_shards(train_shards, 0, last_train, image_size)
    notes = find_copies(train, test)
    if not shared:
        notes += doubt_labels(train_shards, test_shards)
    if trained_on is not None:
        notes += doubt_encoder(trained_on, test_shards)
    return train, replace(test, notes=notes)


def _load(data: str, split: str, size: int, root: Path | None) -> LabelledImages:
    if _is_cifar10(data):
        images = load_cifar10(root or default_folder(), split=split)
        if images.pixels.shape[1] != size:
            images = _resized(images, size)
        return images
    folder = Path(data)
    if folder.is_dir():
        if (folder / "train-images.npy").exists():  # as contrast data cifar10 leaves it
            raise ValueError(f"{folder} holds CIFAR-10 as arrays: use --data cifar10 --data-root {folder}")
        return _from_folder(folder, split, size)
    return _from_torchvision(data, split, size, root)


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
            f"{dataset.directory}: the encoder was trained on all of its {length} groups"
            + (", or on the same images in another order" if is_real else "")
            + ", so none is left to test on; "
            + ("pack images that it has not seen" if is_real else "render more groups")
            + ", or train with a smaller --n"
        )
    if not hold_out:
        return seen
    num_held_out = int(length * HELD_OUT_SHARE)
    if num_held_out == 0:
        raise ValueError(
            f"{dataset.directory}: a fifth of its groups is held out for testing, and {length} are too few for that; "
            "give 5 groups or more, or other images with --data-train"
        )
    return max(length - num_held_out, seen)


def _from_shards(dataset: GroupDataset, first: int, last: int, size: int) -> LabelledImages:
    is_real = dataset.manifest.recipe.is_real
    ids = np.array(sorted(dataset.class_names), dtype=np.int64)
    pixels = np.empty((last - first, dataset.image_size, dataset.image_size, 3), dtype=np.uint8)
    for start in range(first, last, 1000):
        rows = np.arange(start, min(start + 1000, last))
        pixels[rows - first] = dataset.batch(rows)[0][:, 0]
    images = LabelledImages(
        name=f"{'images' if is_real else 'generated anchors'} {first}…{last - 1} of {dataset.directory}",
        pixels=pixels,
        labels=np.searchsorted(ids, dataset.labels[first:last]),
        class_names=tuple(dataset.class_names[int(label)] for label in ids),
        is_real=is_real,
    )
    return images if dataset.image_size == size else _resized(images, size)


# ---------------------------------------------------------------------------------------------------------------------
# A folder of images: FOLDER/[train|test]/CLASS/*.png


def _from_folder(folder: Path, split: str, size: int) -> LabelledImages:
    files, labels, class_names = list_image_folder(folder, split=split)
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)
    for row, path in enumerate(files):
        pixels[row] = fit_image(read_image(path), size)
    return LabelledImages(
        name=f"{folder.name} {split}", pixels=pixels, labels=labels, class_names=class_names, is_real=True
    )


# ---------------------------------------------------------------------------------------------------------------------
# torchvision, by name


def _from_torchvision(name: str, split: str, size: int, root: Path | None) -> LabelledImages:
    pictures = open_torchvision(name, split=split, root=root)
    pixels = np.empty((len(pictures), size, size, 3), dtype=np.uint8)
    for row in range(len(pictures)):
        pixels[row] = fit_image(pictures.read(row), size)
    return LabelledImages(
        name=f"{pictures.title} {split}",
        pixels=pixels,
        labels=pictures.labels,
        class_names=pictures.class_names,
        is_real=True,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


def _resized(images: LabelledImages, size: int) -> LabelledImages:
    pixels = np.stack([fit_image(Image.fromarray(image), size) for image in images.pixels])
    return replace(images, name=f"{images.name}, resized to {size} px", pixels=pixels)
