"""Real labelled images where people keep them: a folder per class, or CIFAR-10 as arrays.

    pictures = open_pictures(Path("photos"), split="train")      # photos/[train|test]/CLASS/*.png
    pictures = open_pictures(Path("datasets/cifar10"), split="test")
    pictures.labels, pictures.class_names, pictures.read(0)

What is for testing is decided here alone, so that packing a folder's training part and scoring on its test part can
never overlap.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from shards.cifar10 import CLASS_NAMES, is_cifar10, load_arrays
from shards.errors import DamageError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
SPLITS = ("train", "test", "all")
TEST_FOLDERS = ("test", "val")
FOLDER_TEST_EVERY = 10
"""Of an image folder without a split: the last of every ten images of a class, by name, is for testing."""
_PILLOW_ERRORS = (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that are damaged, or larger than it decodes."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Labelled images in a fixed order, read one by one."""

    labels: np.ndarray
    """int64 [N], positions in class_names."""
    class_names: tuple[str, ...]
    content_of: Callable[[int], bytes]
    """What decides an image: its file's bytes, or its pixels."""
    size_of: Callable[[int], tuple[int, int]]
    """Width and height. Raises DamageError where that cannot be told, or `read` would refuse the kind of image."""
    read: Callable[[int], Image.Image]
    """RGB. Raises DamageError where it does not decode, or holds grey levels of more than 8 bits."""

    def __len__(self) -> int:
        return len(self.labels)

    def survey(self) -> tuple[str, set[tuple[int, int]]]:
        """sha256 (hex) of all classes and contents, in order, and the sizes (width, height) that occur."""
        digest = hashlib.sha256()
        sizes = set()
        for row in range(len(self)):
            name = self.class_names[self.labels[row]]
            digest.update(name.encode() + b"\0" + hashlib.sha256(self.content_of(row)).digest())
            sizes.add(self.size_of(row))
        return digest.hexdigest(), sizes


def open_pictures(folder: Path, *, split: str) -> Pictures:
    """The images of a folder: one folder per class, with or without train/ and test/ above; or CIFAR-10 as arrays.

    Args:
        split: train, test, or all. Without folders of those names every tenth image of a class is for testing.

    Raises:
        ValueError: there is no such folder, or no labelled images in it.
        DamageError: CIFAR-10's arrays are not as they were fetched.
    """
    assert split in SPLITS, split
    if not folder.is_dir():
        raise ValueError(
            f"no folder {folder}: check the path; a dataset of torchvision is made one by "
            f"contrast data images {shlex.quote(folder.name)} --out FOLDER"
        )
    if is_cifar10(folder):
        return _open_arrays(folder, ("train", "test") if split == "all" else (split,))
    files, labels, class_names = list_image_folder(folder, split=split)
    return Pictures(
        labels=labels,
        class_names=class_names,
        content_of=lambda row: files[row].read_bytes(),
        size_of=lambda row: _read_size(files[row]),
        read=lambda row: read_image(files[row]),
    )


def list_image_folder(folder: Path, *, split: str) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """The files of FOLDER/[train|test]/CLASS/, their labels, and the class names, sorted by name; hidden ones are not.

    Raises:
        ValueError: there are fewer than two classes, an empty one, a name that is not UTF-8, what is no file, or
            nothing to hold out.
    """
    roots = class_roots(folder)
    if len(roots) == 1:
        files, labels, class_names = _list_classes(roots)
        if split == "all":
            return files, labels, class_names
        is_test = rank_within_class(labels) % FOLDER_TEST_EVERY == FOLDER_TEST_EVERY - 1
        chosen = np.flatnonzero(is_test if split == "test" else ~is_test)
        if len(chosen) == 0:
            raise ValueError(f"{folder}: {FOLDER_TEST_EVERY} images of a class are needed to hold one of them out")
        return [files[row] for row in chosen], labels[chosen], class_names
    return _list_classes(roots if split == "all" else [roots[split == "test"]])


def class_roots(folder: Path) -> list[Path]:
    """Where the folders of the classes lie: in its train/ and test/ (or val/), else in the folder itself."""
    test_folder = next((name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if test_folder is None or not (folder / "train").is_dir():
        return [folder]
    return [folder / "train", folder / test_folder]


def _read_size(path: Path) -> tuple[int, int]:
    with _opened(path) as picture:  # the header alone
        return picture.size


def read_image(path: Path) -> Image.Image:
    """An image file, RGB.

    Raises:
        DamageError: it does not decode, or holds grey levels of more than 8 bits.
    """
    with _opened(path) as picture:
        return picture.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file whose header was read, and whose pixels are decoded while the context lasts."""
    with explain_damage(str(path)), Image.open(path) as picture:
        refuse_deep_grey(picture, str(path))
        yield picture


@contextmanager
def explain_damage(name: str, errors: tuple[type[Exception], ...] = _PILLOW_ERRORS) -> Iterator[None]:
    """Turns what Pillow raises for an image that it cannot decode into one line that names it.

    Raises:
        DamageError: it does not decode.
        OSError: it cannot be read, as the system says.
    """
    try:
        yield
    except errors as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamageError(f"{name} does not decode ({error}): repair or remove it") from error


def refuse_deep_grey(picture: Image.Image, name: str) -> None:
    """Raises DamageError for grey levels of more than 8 bits: Pillow cuts them at 255, so most images become white."""
    if picture.mode[0] in "IF":
        bits = 16 if picture.mode.startswith("I;16") else 32
        raise DamageError(f"{name} holds {bits}-bit grey levels: convert it to 8 bit first")


def fit_image(picture: Image.Image, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the shorter side resized to `size`, bicubic, then the centre."""
    width, height = picture.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        resized = (max(size, round(width * scale)), max(size, round(height * scale)))
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
        left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture)


def rank_within_class(labels: np.ndarray) -> np.ndarray:
    """How many earlier entries have the same label, int64 [N]."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1]) if len(labels) else np.zeros(0, np.int64)
    lengths = np.diff(np.concatenate([starts, [len(labels)]]))
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, lengths)
    return ranks


def _list_classes(roots: list[Path]) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    class_names = sorted(
        {path.name for root in roots for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    )
    if len(class_names) < 2:
        raise ValueError(f"{roots[0]}: an image folder holds one folder per class, and two classes or more")
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError as error:  # no manifest could hold it
            raise ValueError(f"{roots[0]}: the class folder {name!r} has no name in UTF-8: rename it") from error
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = [
            path
            for root in roots
            for path in sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            if not _is_hidden(path.relative_to(root / name))
        ]
        if not found:
            raise ValueError(f"{roots[0] / name}: a class without images; remove the folder or fill it")
        for path in found:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError(f"{path} is no regular file: remove it, or give it another ending")
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64), tuple(class_names)


def _is_hidden(path: Path) -> bool:
    """Whether a file's name, or that of a folder on the way to it, begins with a dot: copies that programs keep."""
    return any(part.startswith(".") for part in path.parts)


def _open_arrays(folder: Path, parts: tuple[str, ...]) -> Pictures:
    arrays = [load_arrays(folder, split=part) for part in parts]
    pixels = np.concatenate([images for images, _ in arrays])
    return Pictures(
        labels=np.concatenate([labels for _, labels in arrays]).astype(np.int64),
        class_names=CLASS_NAMES,
        content_of=lambda row: pixels[row].tobytes(),
        size_of=lambda row: (32, 32),
        read=lambda row: Image.fromarray(pixels[row]),
    )
