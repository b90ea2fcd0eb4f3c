"""Where labelled images come from: CIFAR-10, any torchvision dataset, a folder of images, or our own shards.

    train, test = load_pair("cifar10", image_size=32)
    train, test = load_pair("datasets/photos", image_size=64)

Training and test images never come out of one random split: the source's own split, every tenth image of a class, or
two index ranges of a generated dataset.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from contrast.data import default_folder, load_cifar10
from contrast.images import LabelledImages, rank_within_class
from contrast.run_folder import TrainedOn, hash_anchors
from shards.console import DamageError
from shards.dataset import GroupDataset
from shards.manifest import MANIFEST_NAME

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
HELD_OUT_SHARE = 0.2
"""Of a generated dataset, at its end."""
FOLDER_TEST_EVERY = 10
"""Of an image folder without a split: the last of every ten images of a class, by name, is for testing."""
TEST_FOLDERS = ("test", "val")


def load_pair(
    data: str,
    *,
    image_size: int,
    data_train: str | None = None,
    data_root: Path | None = None,
    trained_on: TrainedOn | None = None,
) -> tuple[LabelledImages, LabelledImages]:
    """Images whose labels a score may use, and the images that it is taken on.

    Args:
        data: cifar10, the name of a torchvision dataset, an image folder, or a folder of shards.
        image_size: other sizes are resized (shorter side) and cut to the centre.
        data_train: another source for the first of the two.
        data_root: where a named dataset lies.
        trained_on: what the encoder has seen; groups with its anchors are tested on only beyond those.

    Raises:
        ValueError: there is no such source, it has no labels, or nothing is left to test on.
        DamageError: an image does not decode.
    """
    train_source = data if data_train is None else data_train
    train_shards, test_shards = _open_shards(train_source), _open_shards(data)
    last_train = 0 if train_shards is None else len(train_shards)
    if test_shards is None:
        test = _load(data, "test", image_size, data_root)
    else:
        shared = train_shards is not None and _anchors_of(train_shards) == _anchors_of(test_shards)
        first_test = _first_test_index(test_shards, trained_on, hold_out=shared)
        test = _from_shards(test_shards, first_test, len(test_shards), image_size)
        last_train = min(last_train, first_test) if shared else last_train
    if train_shards is None:
        return _load(train_source, "train", image_size, data_root), test
    return _from_shards(train_shards, 0, last_train, image_size), test


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
    length = len(dataset)
    seen = 0 if trained_on is None else num_groups_seen(trained_on, dataset)
    first = max(length - int(length * HELD_OUT_SHARE), seen) if hold_out else seen
    if first >= length:
        raise ValueError(
            f"{dataset.directory}: the encoder was trained on all of its {length} groups, so none is left to test on; "
            "render more groups, or train with a smaller --n"
        )
    return first


def num_groups_seen(trained_on: TrainedOn, dataset: GroupDataset) -> int:
    """How many groups of the dataset, from its beginning, have anchors that the encoder was trained on."""
    if trained_on.anchors_id is None:
        has_seen = trained_on.recipe_id == dataset.manifest.recipe.id
    else:
        has_seen = trained_on.anchors_id == _anchors_of(dataset)
    return min(trained_on.num_groups, len(dataset)) if has_seen else 0


def _anchors_of(dataset: GroupDataset) -> str:
    return hash_anchors(dataset.manifest.recipe)


def _from_shards(dataset: GroupDataset, first: int, last: int, size: int) -> LabelledImages:
    ids = np.array(sorted(dataset.class_names), dtype=np.int64)
    pixels = np.empty((last - first, dataset.image_size, dataset.image_size, 3), dtype=np.uint8)
    for start in range(first, last, 1000):
        rows = np.arange(start, min(start + 1000, last))
        pixels[rows - first] = dataset.batch(rows)[0][:, 0]
    images = LabelledImages(
        name=f"generated anchors {first}…{last - 1} of {dataset.directory}",
        pixels=pixels,
        labels=np.searchsorted(ids, dataset.labels[first:last]),
        class_names=tuple(dataset.class_names[int(label)] for label in ids),
        is_real=False,
    )
    return images if dataset.image_size == size else _resized(images, size)


# ---------------------------------------------------------------------------------------------------------------------
# A folder of images: FOLDER/[train|test]/CLASS/*.png


def _from_folder(folder: Path, split: str, size: int) -> LabelledImages:
    test_folder = next((name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    has_split = test_folder is not None and (folder / "train").is_dir()
    root = folder / (split if split == "train" else str(test_folder)) if has_split else folder
    class_names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(class_names) < 2:
        raise ValueError(f"{root}: an image folder holds one folder per class, and two classes or more")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"{root / name}: a class without images; remove the folder or fill it")
        files += found
        labels += [label] * len(found)
    chosen = np.arange(len(files))
    if not has_split:
        is_test = rank_within_class(np.array(labels)) % FOLDER_TEST_EVERY == FOLDER_TEST_EVERY - 1
        chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
        if len(chosen) == 0:
            raise ValueError(f"{folder}: {FOLDER_TEST_EVERY} images of a class are needed to hold one of them out")
    pixels = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
    for row, index in enumerate(chosen):
        try:
            with Image.open(files[index]) as picture:
                pixels[row] = _fit(picture.convert("RGB"), size)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise DamageError(f"{files[index]} does not decode ({error}): repair or remove it") from error
    return LabelledImages(
        name=f"{folder.name} {split}",
        pixels=pixels,
        labels=np.array(labels, dtype=np.int64)[chosen],
        class_names=tuple(class_names),
        is_real=True,
    )


# ---------------------------------------------------------------------------------------------------------------------
# torchvision, by name


def _from_torchvision(name: str, split: str, size: int, root: Path | None) -> LabelledImages:
    import torchvision.datasets

    matches = [known for known in torchvision.datasets.__all__ if known.lower() == name.lower().replace("-", "")]
    if not matches:
        raise ValueError(f"no folder {name} and no torchvision dataset of that name: check --data")
    constructor: Callable[..., Any] = getattr(torchvision.datasets, matches[0])
    parameters = inspect.signature(constructor).parameters
    folder = root or default_folder().parent / matches[0].lower()
    arguments: dict[str, Any] = {"root": str(folder)}
    if "train" in parameters:
        arguments["train"] = split == "train"
    elif "split" in parameters:
        arguments["split"] = split
    else:
        raise ValueError(f"torchvision's {matches[0]} has no training and test part: give an image folder")
    if "download" in parameters:
        folder.mkdir(parents=True, exist_ok=True)
        arguments["download"] = True
    try:
        dataset = constructor(**arguments)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"torchvision's {matches[0]} cannot be had here ({error}): put its files into {folder}"
        ) from error
    pixels = np.empty((len(dataset), size, size, 3), dtype=np.uint8)
    labels = np.empty(len(dataset), dtype=np.int64)
    for row in range(len(dataset)):
        picture, label = dataset[row]
        pixels[row], labels[row] = _fit(picture.convert("RGB"), size), int(label)
    names = getattr(dataset, "classes", None) or [str(label) for label in range(int(labels.max()) + 1)]
    return LabelledImages(
        name=f"{matches[0]} {split}",
        pixels=pixels,
        labels=labels,
        class_names=tuple(str(class_name) for class_name in names),
        is_real=True,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


def _fit(picture: Image.Image, size: int) -> ndarray:
    """uint8 [size, size, 3]: the shorter side resized to `size`, then the centre."""
    width, height = picture.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        resized = (max(size, round(width * scale)), max(size, round(height * scale)))
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
        left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture)


def _resized(images: LabelledImages, size: int) -> LabelledImages:
    pixels = np.stack([_fit(Image.fromarray(image), size) for image in images.pixels])
    return LabelledImages(
        name=f"{images.name}, resized to {size} px",
        pixels=pixels,
        labels=images.labels,
        class_names=images.class_names,
        is_real=images.is_real,
    )
