"""A dataset for measuring readers: noise with the spectrum of photographs, whose JPEG files are as large as theirs.

write_dataset(Path("scratch/dataset"), num_groups=4000, size=32)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shards.codec import default_subsampling, encode_image
from shards.folder import finish_dataset, lock_dataset
from shards.progress import Progress
from shards.recipe import Recipe, RenderSettings
from shards.writer import ShardWriter


def draw_image(rng: np.random.Generator, size: int) -> np.ndarray:
    """uint8 [size, size, 3] whose amplitudes fall with the frequency, as those of photographs do, and little colour.

    As JPEG of quality 95 it is about as large as a photograph of its size.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    fields = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, size, size))) / frequency**1.5, s=(size, size))
    fields *= np.array([55, 15, 15])[:, None, None] / fields.std(axis=(1, 2), keepdims=True)
    light, warm, green = fields
    pixels = 128 + np.stack([light + warm, light + green, light - warm], axis=2)
    return pixels.clip(0, 255).astype(np.uint8)


def write_dataset(directory: Path, *, num_groups: int, size: int, shard_size: int | None = None) -> None:
    """Groups of an anchor and a view, of ten classes, in four shards or in shards of a thousand."""
    recipe = Recipe(
        source={"images": "noise whose amplitudes fall with the frequency"},
        classes=tuple(range(10)),
        views=({"policy": "redrawn"},),
        seed=0,
        image={"size": size, "format": "jpg", "quality": 95, "subsampling": default_subsampling(size)},
    )
    names = {label: f"class {label}" for label in recipe.classes}
    shard_size = shard_size or min(1000, -(-num_groups // 4))
    with lock_dataset(directory), Progress(total=num_groups, unit="groups", label="writing") as progress:
        for index, first in enumerate(range(0, num_groups, shard_size)):
            count = min(shard_size, num_groups - first)
            with ShardWriter(
                directory,
                recipe=recipe,
                render=RenderSettings(batch_size=1, dtype="float32"),
                shard_index=index,
                first=first,
                count=count,
                class_names=names,
            ) as writer:
                for group in range(first, first + count):
                    rng = np.random.default_rng([0, group])
                    images = [encode_image(draw_image(rng, size), recipe.image) for _ in range(2)]
                    writer.add(label=group % 10, images=images, views=[{"policy": "redrawn"}])
                    progress.advance()
                writer.publish(environment={}, seconds=0.0, stages={})
        finish_dataset(directory, num_groups=num_groups, shard_size=shard_size)
