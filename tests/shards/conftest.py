"""Small real datasets, written by the real writer."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shards.codec import encode_image
from shards.folder import finish_dataset, lock_dataset
from shards.manifest import Manifest
from shards.recipe import Recipe, RenderSettings
from shards.survey import completed_shards
from shards.writer import ShardWriter

if TYPE_CHECKING:
    from tests.file_server import FileServer

NAMES = {3: "cat", 5: "dog", 8: "ship"}
RENDER = RenderSettings(batch_size=4, dtype="float32")
MakeDataset = Callable[..., Manifest]


def make_recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "source": {"generator": "smooth-noise", "truncation": 1.0},
        "classes": (3, 5, 8),
        "views": ({"policy": "gaussian", "std": 0.3},),
        "seed": 0,
        "image": {"size": 8, "format": "jpg", "quality": 95, "subsampling": "444"},
    }
    return Recipe(**{**fields, **changes})


def draw_pixels(index: int, image: int, size: int) -> np.ndarray:
    """A smooth image that depends on its group and place alone."""
    corners = np.random.default_rng([index, image]).integers(0, 256, (2, 2, 3)).astype(float)
    ramp = np.linspace(0, 1, size)
    left = corners[0, 0] + ramp[:, None] * (corners[1, 0] - corners[0, 0])
    right = corners[0, 1] + ramp[:, None] * (corners[1, 1] - corners[0, 1])
    pixels = left[:, None] + ramp[None, :, None] * (right - left)[:, None]
    return np.ascontiguousarray(pixels.round().astype(np.uint8))


def label_of(index: int, recipe: Recipe) -> int:
    return recipe.classes[index % len(recipe.classes)] if recipe.classes else -1


def add_group(writer: ShardWriter, index: int, recipe: Recipe, class_names: Mapping[int, str] = NAMES) -> None:
    images = [
        encode_image(draw_pixels(index, image, recipe.image["size"]), recipe.image)
        for image in range(1 + recipe.num_views)
    ]
    latents = None
    if recipe.store_latents:
        buffer = io.BytesIO()
        np.save(buffer, np.full((1 + recipe.num_views, 4), index, np.float32))
        latents = buffer.getvalue()
    writer.add(label=label_of(index, recipe), images=images, views=list(recipe.views), latents=latents)


def write_shard(directory: Path, recipe: Recipe, index: int, first: int, count: int) -> None:
    with ShardWriter(
        directory, recipe=recipe, render=RENDER, shard_index=index, first=first, count=count, class_names=NAMES
    ) as writer:
        for group in range(first, first + count):
            add_group(writer, group, recipe)
        writer.publish(environment={"machine": "test"}, seconds=1.5, stages={"encode": 0.5})


def write_dataset(directory: Path, num_groups: int, *, shard_size: int = 4, recipe: Recipe | None = None) -> Manifest:
    """What a render does: the missing shards, then the manifest. Called again, it resumes or grows."""
    recipe = recipe or make_recipe()
    with lock_dataset(directory):
        done = completed_shards(directory, recipe=recipe, render=RENDER, shard_size=shard_size)
        for index in range(-(-num_groups // shard_size)):
            first = index * shard_size
            count = min(shard_size, num_groups - first)
            if index not in done or done[index].count < count:
                write_shard(directory, recipe, index, first, count)
        return finish_dataset(directory, num_groups=num_groups, shard_size=shard_size)


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Recipe]:
    return make_recipe


@pytest.fixture(scope="session")
def build() -> MakeDataset:
    return write_dataset


@pytest.fixture(scope="session")
def build_shard() -> Callable[..., None]:
    return write_shard


@pytest.fixture(scope="session")
def fill() -> Callable[..., None]:
    return add_group


@pytest.fixture(scope="session")
def huge_png() -> Callable[[int], bytes]:
    """Makes a PNG file of a few bytes whose header promises a square of that many pixels a side."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def make(side: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

    return make


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Ten groups in shards of four: the last shard is short."""
    write_dataset(tmp_path / "dataset", 10)
    return tmp_path / "dataset"


@pytest.fixture(scope="session")
def shared_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `dataset`, for tests that only read."""
    directory = tmp_path_factory.mktemp("shared") / "dataset"
    write_dataset(directory, 10)
    return directory


@pytest.fixture
def server(shared_dataset: Path) -> Iterator[FileServer]:
    from tests.file_server import serve_files  # here: killed_writer.py loads this file on its own

    with serve_files(shared_dataset) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path
