"""Packs real labelled images into the format of rendered ones: groups of an anchor and no view.

    manifest = from_images("photos", out="datasets/photos", n="10k")

So a baseline on real images runs through the very same reader, loop and scores, and `--n` means the same: group i is a
function of the collection and of i alone, and every prefix is balanced over the classes as far as they have images.
"""

from __future__ import annotations

import platform
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np

from shards.canonical import JSON
from shards.codec import default_subsampling, encode_image
from shards.folder import finish_dataset, lock_dataset
from shards.manifest import MANIFEST_NAME, Manifest, load_manifest
from shards.numbers import check_whole
from shards.pictures import SPLITS, Pictures, class_roots, fit_image, open_pictures, rank_within_class
from shards.progress import Progress
from shards.quantities import format_bytes
from shards.randomness import random_words
from shards.recipe import Recipe, RenderSettings
from shards.survey import completed_shards
from shards.writer import ShardWriter

JPEG_QUALITY = 95
NO_RENDER = RenderSettings(batch_size=1, dtype="float32")
"""A manifest states how images were rendered; these were not, and the same is written for all."""


def from_images(
    source: str | Path,
    *,
    out: str | Path,
    n: int | str | None = None,
    split: str = "train",
    size: int | None = None,
    format: str = "png",
    quality: int | None = None,
    shard_size: int = 1000,
    seed: int = 0,
    quiet: bool = False,
) -> Manifest:
    """Packs the images of a folder into a dataset, or goes on with the one in `out`, or grows it.

    Args:
        source: FOLDER with FOLDER/[train|test]/CLASS/*.png, or CIFAR-10 as contrast data cifar10 leaves it.
        n: groups to pack, the first ones of the order; all images when None. A count may be text, such as "10k".
        split: train, test or all; see shards.pictures.open_pictures.
        size: pixels of a side: the shorter side is resized, the centre kept. When None, the images' own size.
        format: png keeps every pixel; jpg is smaller.
        quality: of jpg, 1 to 100; 95 when None.
        seed: key of the order.

    Raises:
        ValueError: the request cannot work as it stands; nothing was written.
        DamageError: an image does not decode; of the shard that it belongs to nothing was written.
        OSError: the disk is full or not writable; running the same again resumes.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    if any(root.resolve() in Path(out).resolve().parents for root in class_roots(Path(source))):
        raise ValueError(f"--out {out} lies inside {source}, and would be taken for a class: choose a folder elsewhere")
    size = None if size is None else check_whole("size", size, 1, 4096)
    shard_size, seed = check_whole("shard_size", shard_size, 1), check_whole("seed", seed, 0, 2**63 - 1)
    pictures = open_pictures(Path(source), split=split)
    num_groups = len(pictures) if n is None else check_whole("n", n, 1)
    if num_groups > len(pictures):
        raise ValueError(f"--n {num_groups}: {source} holds {len(pictures)} images ({split}); ask for fewer")
    content_sha256, sizes = pictures.survey()
    side = _choose_size(source, sizes, size)
    recipe = Recipe(
        source={"kind": "images", "content_sha256": content_sha256, "num_images": len(pictures), "split": split},
        classes=tuple(range(len(pictures.class_names))),
        views=(),
        seed=seed,
        image=_image_settings(side, format, quality),
    )
    directory = Path(out)
    order = balanced_order(pictures.labels, seed=seed)
    with lock_dataset(directory):
        done = completed_shards(directory, recipe=recipe, render=NO_RENDER, shard_size=shard_size)
        num_asked, missing = num_groups, []
        if (directory / MANIFEST_NAME).exists():
            num_groups = max(num_asked, load_manifest(directory).num_groups)
        for index in range(-(-num_groups // shard_size)):
            first, last = index * shard_size, min((index + 1) * shard_size, num_groups)
            if index not in done or done[index].count < last - first:
                missing.append((index, order[first:last]))
        num_missing = sum(len(rows) for _, rows in missing)
        _check_disk(directory, num_missing, side)
        initial = num_groups - num_missing
        progress = Progress(total=num_groups, unit="images", label="packing", initial=initial, quiet=quiet)
        if num_groups > num_asked:
            progress.note(f"{directory} holds {num_groups} groups: the first {num_asked} are what was asked for")
        if missing:
            with progress, ThreadPoolExecutor(thread_name_prefix="encode") as pool:
                for index, rows in missing:
                    _pack_shard(directory, recipe, pictures, pool, index, index * shard_size, rows)
                    progress.advance(len(rows))
        return finish_dataset(directory, num_groups=num_groups, shard_size=shard_size)


def balanced_order(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """A keyed permutation of 0 … N - 1, int64, whose every prefix is balanced to within one over the classes.

    It goes in rounds: each takes one image of every class that has some left, in an order of its own; which image of a
    class is in which round is drawn, too. A function of labels and seed, and of no library's version.
    """
    within, among = (random_words(f"images/{name}/{seed}", len(labels)) for name in ("within", "among"))
    shuffled = np.argsort(within, kind="stable")
    rounds = np.empty(len(labels), dtype=np.int64)
    rounds[shuffled] = rank_within_class(labels[shuffled])
    return np.lexsort((among, rounds))


def _pack_shard(
    directory: Path,
    recipe: Recipe,
    pictures: Pictures,
    pool: ThreadPoolExecutor,
    index: int,
    first: int,
    rows: np.ndarray,
) -> None:
    started = time.monotonic()
    names = dict(enumerate(pictures.class_names))

    def encode(row: int) -> bytes:
        return encode_image(fit_image(pictures.read(row), recipe.image["size"]), recipe.image)

    with ShardWriter(
        directory,
        recipe=recipe,
        render=NO_RENDER,
        shard_index=index,
        first=first,
        count=len(rows),
        class_names=names,
    ) as writer:
        for row, data in zip(rows.tolist(), pool.map(encode, rows.tolist()), strict=True):
            writer.add(label=int(pictures.labels[row]), images=[data], views=[])
        environment = {"python": platform.python_version(), "pillow": version("pillow"), "numpy": version("numpy")}
        writer.publish(environment=environment, seconds=time.monotonic() - started, stages={})


def _choose_size(source: str | Path, sizes: set[tuple[int, int]], size: int | None) -> int:
    if size is not None:
        return size
    width, height = min(sizes)
    if len(sizes) > 1 or width != height:
        shown = ", ".join(f"{w}x{h}" for w, h in sorted(sizes)[:3]) + (", …" if len(sizes) > 3 else "")
        raise ValueError(f"{source}: its images are not all of one square size ({shown}): give --size")
    return width


def _image_settings(side: int, image_format: str, quality: int | None) -> dict[str, JSON]:
    if image_format == "jpg":
        quality = JPEG_QUALITY if quality is None else check_whole("quality", quality, 1, 100)
        return {"size": side, "format": "jpg", "quality": quality, "subsampling": default_subsampling(side)}
    if quality is not None:
        raise ValueError(f"quality {quality}: {image_format} has none; leave it out, or ask for --format jpg")
    return {"size": side, "format": image_format}


def _check_disk(directory: Path, num_missing: int, side: int) -> None:
    needed = num_missing * (3 * side * side + 2048)  # at most: no compression at all
    left = shutil.disk_usage(directory).free
    if needed > left:
        raise ValueError(
            f"{num_missing} images need up to {format_bytes(needed)}, the disk of {directory} has "
            f"{format_bytes(left)} left: free some, choose another --out, or ask for a smaller --n"
        )
