"""Which groups, in which shards, in which forward passes: all counting, nothing else.

Blocks of B groups are aligned to the whole sequence, not to a shard: block b is groups bB … (b+1)B - 1 wherever it is
rendered. A shard renders every block that it touches whole and keeps its own groups, so a group's images come from the
same forward pass whether its shard is rendered alone, in sequence, or as part of a larger dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.manifest import Recipe
from synthgen.draws import draw_labels, draw_truncated_normal
from synthgen.vectors import VectorFiles
from synthgen.views import policy_from_recipe

ANCHOR_BOUND = 2.0


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
        ShardPlan(index=index, first=first, count=min(shard_size, num_groups - first))
        for index, first in enumerate(range(0, num_groups, shard_size))
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
    anchor = truncation * draw_truncated_normal(
        seed=seed, stream="anchor", first=first, count=count, dim=latent_dim, bound=ANCHOR_BOUND
    )
    latents, parameters = [anchor], []
    for view, entry in enumerate(recipe.views):
        policy = policy_from_recipe(entry, vectors=vectors)
        of_view, stored = policy.latents(anchor, seed=seed, view=view, first=first, truncation=truncation)
        latents.append(of_view)
        parameters.append(stored)
    return Draws(
        labels=draw_labels(seed=seed, first=first, count=count, classes=recipe.classes),
        latents=np.stack(latents).astype(np.float32),
        parameters=parameters,
    )


def parse_classes(selection: str | Iterable[int], *, num_classes: int) -> tuple[int, ...]:
    """Class ids, ascending, of 'all', of a list such as 0,3,7, or of a file with one id per line (# begins a comment).

    From Python, whole numbers as they are will do too.

    Raises:
        ValueError: an unreadable or empty list, an id twice, or one that the generator does not have.
    """
    if isinstance(selection, str) and selection.strip() == "all":
        return tuple(range(num_classes))
    if num_classes == 0:
        raise ValueError("this generator has no classes: leave --classes away")
    source, words = _split_classes(selection)
    ids: list[int] = []
    for word in words:
        if not re.fullmatch(r"\d+", word.strip()):
            raise ValueError(f"{source}: '{word.strip()}' is not a class id; give whole numbers such as 0,3,7")
        ids.append(int(word))
    for wrong in (i for i in ids if i >= num_classes):
        raise ValueError(f"{source}: no class {wrong}; this generator has classes 0 to {num_classes - 1}")
    for repeated in (i for i in ids if ids.count(i) > 1):
        raise ValueError(f"{source}: class {repeated} is given twice; give every class once")
    if not ids:
        raise ValueError(f"{source}: no class id in it; give at least one")
    return tuple(sorted(ids))


def _split_classes(selection: str | Iterable[int]) -> tuple[str, list[str]]:
    """Where the ids come from, for the messages, and each of them as it was written."""
    if not isinstance(selection, str):
        if not isinstance(selection, Iterable):
            raise ValueError(f"classes {selection}: give all, or a list of ids such as [0, 3, 7]")
        return "classes", [str(item) for item in selection]
    text = selection
    if re.fullmatch(r"[-+\s\d,]+", text):
        return "--classes", text.split(",")
    if Path(text).is_file():
        try:
            content = Path(text).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"--classes {text}: not a text file; give one with one class id per line") from None
        lines = (line.split("#")[0].strip() for line in content.splitlines())
        return text, [line for line in lines if line]
    raise ValueError(f"--classes {text}: give all, ids such as 0,3,7, or an existing file with one id per line")
