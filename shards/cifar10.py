"""CIFAR-10 as four arrays in a folder, lossless and checked, as `contrast data cifar10` leaves it.

pixels, labels = load_arrays(Path("datasets/cifar10"), split="train")       # uint8 [50000, 32, 32, 3], uint8 [50000]

Pixels and labels are checked by sha256, so it does not matter where they came from. JPEG copies of CIFAR-10 are around
on the web; scores on those are several points off, and they do not pass the check.
"""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import numpy as np

from shards.errors import DamageError
from shards.tar import parse_array

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHA256 = {
    "train-images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train-labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test-images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test-labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
"""Of the bytes of the arrays in C order; the names are those of the files, without .npy."""


def is_cifar10(folder: Path) -> bool:
    """Whether the folder holds the arrays, and is no folder of image files."""
    return (folder / "train-images.npy").exists()


def load_arrays(folder: Path, *, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels uint8 [N] of the train (50,000) or test (10,000) part, checked.

    Raises:
        ValueError: they have not been fetched.
        DamageError: they are not as they were fetched.
    """
    assert split in ("train", "test"), split
    images, labels = (_load(folder, f"{split}-{kind}") for kind in ("images", "labels"))
    return images, labels


def _load(folder: Path, name: str) -> np.ndarray:
    path = folder / f"{name}.npy"
    fetch = f"run contrast data cifar10 --out {shlex.quote(str(folder))}"
    try:
        array = parse_array(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"no {path}: {fetch}") from None
    except ValueError as error:
        raise DamageError(f"{path} cannot be read: remove it and {fetch}") from error
    if sha256_of(array) != SHA256[name]:
        raise DamageError(f"{path} is not CIFAR-10's: remove it and {fetch}")
    return array


def sha256_of(array: np.ndarray) -> str:
    """sha256 (hex) of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
