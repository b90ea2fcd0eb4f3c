"""Which groups, in which shards, in which forward passes: all counting, nothing else.

Blocks of B groups are aligned to the whole sequence, not to a shard: block b is groups bB … (b+1)B - 1 wherever it is
rendered. A shard renders every block that it touches whole and keeps its own groups, so a group's images come from the
same forward pass whether its shard is rendered alone, in sequence, or as part of a larger dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.manifest import shard_counts
from shards.recipe import Recipe
from synthgen.class_weights import draw_weighted_labels
from synthgen.draws import draw_labels, draw_truncated_normal
from synthgen.vectors import VectorFiles
from synthgen.views import policy_from_recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Groups first … first + count - 1 make up shard `index`."""

    index: int
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class BlockPlan:
    """A forward pass's groups first … first + size - 1, of which `kept` (a slice of them) belong to the shard."""

    first: int
    size: int
    kept: slice


def plan_shards(*, num_groups: int, shard_size: int) -> list[ShardPlan]:
    """The shards of a dataset, in order; only the last may hold fewer than shard_size groups."""
    return [
        ShardPlan(index=index, first=index * shard_size, count=count)
        for index, count in enumerate(shard_counts(num_groups, shard_size))
    ]


def plan_blocks(shard: ShardPlan, *, batch_size: int) -> Iterator[BlockPlan]:
    """The blocks that a shard touches, in order; what they keep, put together, is the shard."""
    end = shard.first + shard.count
    for first in range(shard.first // batch_size * batch_size, end, batch_size):
        kept = slice(max(shard.first - first, 0), min(end - first, batch_size))
        yield BlockPlan(first=first, size=batch_size, kept=kept)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Everything random about B consecutive groups."""

    labels: NDArray[np.int64]
    """[B]; -1 without classes."""
    latents: NDArray[np.float32]
    """[K, B, latent dimension]: anchors, then each view; truncation applied."""
    parameters: list[list[dict[str, object]]]
    """[V][B]: what to store about each view."""

    def inputs(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Latents [K, B, latent dimension] and labels [B] as a generator takes them; without classes all of one."""
        import torch

        return torch.from_numpy(self.latents).to(device), torch.from_numpy(self.labels).clamp(min=0).to(device)


def draw_groups(
    recipe: Recipe, *, latent_dim: int, first: int, count: int, vectors: VectorFiles | None = None
) -> Draws:
    """Labels, latents and view parameters of the groups first … first + count - 1 of a recipe.

    Policies that walk along vectors find them by sha256 among the files of `vectors` and the package's own.

    Anchors are truncation * TN(-2, 2), the truncation trick of BigGAN (Brock et al. 2019, section 3.1) as the published
    generators expect it.

    Raises:
        ValueError: a policy's vectors are in none of the files.
    """
    seed, truncation = recipe.seed, float(recipe.source["truncation"])
    anchor = truncation * draw_truncated_normal(seed=seed, stream="anchor", first=first, count=count, dim=latent_dim)
    latents, parameters = [anchor], []
    for view, entry in enumerate(recipe.views):
        policy = policy_from_recipe(entry, vectors=vectors)
        of_view, stored = policy.latents(anchor, seed=seed, view=view, first=first, truncation=truncation)
        latents.append(of_view)
        parameters.append(stored)
    return Draws(
        labels=_draw_classes(recipe, first, count),
        latents=np.stack(latents).astype(np.float32),
        parameters=parameters,
    )


def _draw_classes(recipe: Recipe, first: int, count: int) -> NDArray[np.int64]:
    weights = recipe.source.get("class_weights")
    if not weights:
        return draw_labels(seed=recipe.seed, first=first, count=count, classes=recipe.classes)
    return draw_weighted_labels(
        seed=recipe.seed,
        first=first,
        count=count,
        classes=recipe.classes,
        weights=tuple(weights.get(str(label), 1) for label in recipe.classes),
    )
