"""A small dataset on disk, written by shards.writer, with classes that single pixels do not tell apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contrast.config import TrainConfig
from shards.codec import encode_image
from shards.folder import finish_dataset, lock_dataset
from shards.recipe import Recipe, RenderSettings
from shards.tar import format_array
from shards.writer import ShardWriter

CLASS_NAMES = {0: "flat stripes", 1: "upright stripes", 2: "checks", 3: "disc"}
SIZE = 16


def draw_pattern(label: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [16, 16, 3]: the class is the shape; phase, colours and noise are random."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] + rng.uniform(0, 6, size=(2, 1, 1))
    shapes = (
        np.sin(y * 1.5),
        np.sin(x * 1.5),
        np.sin(x * 1.1) * np.sin(y * 1.1),
        4 - np.hypot(x - x.mean() + rng.uniform(-3, 3), y - y.mean() + rng.uniform(-3, 3)),
    )
    mask = (shapes[label] > 0)[..., None]
    pixels = np.where(mask, rng.uniform(60, 255, size=3), rng.uniform(0, 195, size=3)) + rng.normal(
        0, 12, (SIZE, SIZE, 3)
    )
    return np.ascontiguousarray(pixels.clip(0, 255).astype(np.uint8))


def write_groups(
    folder: Path,
    *,
    num_groups: int = 96,
    shard_size: int = 40,
    seed: int = 0,
    classes: tuple[int, ...] = (0, 1, 2, 3),
    policy: str = "redrawn",
    num_views: int = 1,
    with_latents: bool = False,
    image: Mapping[str, Any] | None = None,
) -> Path:
    """A finished dataset of groups of an anchor and views, 16 px, PNG unless told; latents are three random numbers."""
    recipe = Recipe(
        source={"images": "patterns"},
        classes=classes,
        views=({"policy": policy},) * num_views,
        seed=seed,
        image={"size": SIZE, "format": "png", **(image or {})},
        store_latents=with_latents,
    )
    render = RenderSettings(batch_size=1, dtype="float32")
    names = {label: CLASS_NAMES[label] for label in classes}
    rng = np.random.default_rng(seed)
    with lock_dataset(folder):
        for index, first in enumerate(range(0, num_groups, shard_size)):
            count = min(shard_size, num_groups - first)
            with ShardWriter(
                folder, recipe=recipe, render=render, shard_index=index, first=first, count=count, class_names=names
            ) as writer:
                for group in range(first, first + count):
                    label = classes[group % len(classes)] if classes else -1
                    images = [
                        encode_image(draw_pattern(max(label, 0), rng), recipe.image) for _ in range(1 + num_views)
                    ]
                    latents = np.random.default_rng(group).standard_normal((1 + num_views, 3)).astype(np.float32)
                    writer.add(
                        label=label,
                        images=images,
                        views=[{"policy": policy}] * num_views,
                        latents=format_array(latents) if with_latents else None,
                    )
                writer.publish(environment={}, seconds=1.0, stages={})
        finish_dataset(folder, num_groups=num_groups, shard_size=shard_size)
    return folder


@pytest.fixture(scope="session")
def make_groups(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a dataset with the given options of `write_groups` into a new folder."""
    return lambda **options: write_groups(tmp_path_factory.mktemp("groups") / "data", **options)


@pytest.fixture(scope="session")
def groups(make_groups: Callable[..., Path]) -> Path:
    """A dataset of 96 groups that tests only read."""
    return make_groups()


@pytest.fixture
def config() -> TrainConfig:
    """A run of a few short steps."""
    return TrainConfig(steps=6, batch_size=16, head_hidden_dim=32, head_dim=16)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Results are compared bit for bit: the number of threads is part of them."""
    torch.set_num_threads(1)
