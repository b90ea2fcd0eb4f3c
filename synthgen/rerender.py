"""Blocks of a dataset that exists, rendered once more: the same generator, the same passes, in memory.

generator = load_recorded_generator(manifest.recipe, named=None, weights=None, device=device, …)
for draws, pixels in render_blocks(manifest, generator, [0, 150], device=device):
    members = group_members(manifest.recipe, generator, draws, pixels, 3, first=0)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.codec import encode_image
from shards.manifest import Manifest
from shards.recipe import Recipe
from shards.tar import format_array
from shards.writer import metadata_bytes
from synthgen.adapters import GENERATORS, load_generator
from synthgen.adapters.own_names import kind_of_name
from synthgen.adapters.protocol import Generator as ImageGenerator
from synthgen.arithmetic import reproducible_arithmetic, set_forward_threads
from synthgen.devices import count_forward_threads, explain_out_of_memory, on_device
from synthgen.plan import Draws, draw_groups
from synthgen.vectors import VectorFiles


def load_recorded_generator(
    recipe: Recipe, *, named: str | None, weights: Path | None, device: torch.device, dtype: str, batch_size: int
) -> ImageGenerator:
    """The generator that a recipe names, with the very weights that it names.

    Args:
        named: the generator as the user named it, if at all; of a .pt2 file its path. A function module:function is
            run only when it was: a manifest may be a stranger's, and importing what it names would let it run any code
            that is here.

    Raises:
        ValueError: no generator made these images, another one was named, a function was not, or its weights are
            missing, corrupt, or other ones.
    """
    source = recipe.source
    if recipe.is_real:
        raise ValueError("these images were packed, not rendered: check them with shards verify, or pack them again")
    if "generator" not in source or "weights_sha256" not in source:
        named = ", ".join(f"{name} {value}" for name, value in source.items())
        raise ValueError(f"no generator made these images ({named}): there is nothing to render again")
    name, wanted = str(source["generator"]), str(source["weights_sha256"])
    if named is not None and name not in (named, Path(named).name):
        raise ValueError(f"{name} made these images, not {named}: omit --generator, or give --generator {name}")
    if named is None and name not in GENERATORS and kind_of_name(name) == "function":
        raise ValueError(f"{name} made these images: if you trust that function, say so with --generator {name}")
    with explain_out_of_memory(device, batch_size=batch_size), on_device(device):
        generator = load_generator(
            named or name, weights=weights, truncation=float(source["truncation"]), device=device, dtype=dtype
        )
    if generator.weights_sha256 != wanted:
        raise ValueError(
            f"weights_sha256: the dataset was rendered with the weights {wanted[:12]}… of {name}, those here are "
            f"{generator.weights_sha256[:12]}…: give --weights the folder or file that holds the former"
        )
    if generator.config_sha256 != source.get("config_sha256"):
        raise ValueError(
            f"config_sha256: the dataset was rendered with another configuration of {name} than the one beside these "
            "weights: give --weights the folder that holds both"
        )
    return generator


def render_blocks(
    manifest: Manifest,
    generator: ImageGenerator,
    firsts: Sequence[int],
    *,
    device: torch.device,
    vectors: VectorFiles | None = None,
) -> Generator[tuple[Draws, NDArray[np.uint8]], None, None]:
    """Draws and pixels [K, B, H, W, 3] of the blocks that begin at `firsts`, multiples of the render batch, in order.

    As many passes at once as a render has; a few blocks are in memory at a time.

    Raises:
        ValueError: the device ran out of memory.
    """
    recipe, batch_size = manifest.recipe, manifest.render.batch_size
    size = int(recipe.image["size"])

    def render_block(first: int) -> tuple[Draws, NDArray[np.uint8]]:
        assert first % batch_size == 0, first
        draws = draw_groups(recipe, latent_dim=generator.latent_dim, first=first, count=batch_size, vectors=vectors)
        with explain_out_of_memory(device, batch_size=batch_size), on_device(device):
            return draws, render_members(generator, *draws.inputs(device), size=size)

    num_threads = count_forward_threads(device)
    waiting: deque[Future[tuple[Draws, NDArray[np.uint8]]]] = deque()
    with (
        reproducible_arithmetic(device),
        ThreadPoolExecutor(num_threads, "forward", set_forward_threads) as pool,
    ):
        for first in firsts:
            waiting.append(pool.submit(render_block, first))
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def render_members(generator: ImageGenerator, latents: Tensor, labels: Tensor, *, size: int) -> NDArray[np.uint8]:
    """uint8 [K, B, size, size, 3] from latents [K, B, latent dimension] and labels [B], a pass for each of the K."""
    return np.stack([generator.render(member, labels, size=size).cpu().numpy() for member in latents])


def group_members(
    recipe: Recipe, generator: ImageGenerator, draws: Draws, pixels: NDArray[np.uint8], row: int, *, first: int
) -> list[bytes]:
    """The members of group first + row, in tar order, as a render would write them."""
    label = int(draws.labels[row])
    images = [encode_image(member[row], recipe.image) for member in pixels]
    latents = [format_array(draws.latents[:, row])] if recipe.store_latents else []
    metadata = metadata_bytes(
        index=first + row,
        label=label,
        class_name=generator.class_names[label] if label >= 0 else "",
        views=[parameters[row] for parameters in draws.parameters],
    )
    return [*images, *latents, metadata]
