"""Which groups a run learnt from, said so that any dataset can be told from them, wherever both lie now.

trained_on = describe_groups(config, dataset, real=None, num_processes=1)    # what RUN/config.json says of them
trained_on.difference(other), trained_on.parts()
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from contrast.config import TrainConfig
from shards.canonical import JSON, canonical_json, first_difference, normalised_numbers, shorten
from shards.dataset import GroupDataset
from shards.recipe import Recipe

STREAMED = ("shard_size", "num_processes")
"""Fields of TrainedOn that streamed runs alone have."""
_DERIVED = ("latents_id", "content_sha256", "split")
DERIVED = (*_DERIVED, *(f"mixed_{name}" for name in _DERIVED))
"""Fields of TrainedOn that follow from the recipes."""
_PINS = ("recipe_id", "num_groups", *_DERIVED)
"""What is said of every dataset that a run reads."""


@dataclass(frozen=True, kw_only=True)
class SeenGroups:
    """One of the datasets that a run reads; fields as in TrainedOn."""

    recipe_id: str
    num_groups: int
    latents_id: str
    classes: frozenset[int]
    """Class ids; of images without classes, and of the real images in the batches, none."""
    content_sha256: str | None
    split: str | None


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The groups of a run, wherever they lie now: the recipe id and the length of the prefix pin the pixels."""

    recipe_id: str
    num_groups: int
    num_images: int
    image_size: int
    class_names: dict[str, str]
    """Class id, as text, to name."""
    latents_id: str
    """See `hash_latents`."""
    content_sha256: str | None = None
    """See `content_of`."""
    mixed_recipe_id: str | None = None
    """Recipe of the real images in the batches, where there are any."""
    mixed_num_groups: int | None = None
    mixed_latents_id: str | None = None
    mixed_content_sha256: str | None = None
    split: str | None = None
    """See `split_of`."""
    mixed_split: str | None = None
    shard_size: int | None = None
    """Groups of a shard where they decide the order of the groups, so of streamed runs alone."""
    num_processes: int | None = None
    """Over which the groups are dealt where that decides their order, so of streamed runs alone."""

    def __post_init__(self) -> None:
        for name, kind in (("recipe_id", str), ("num_groups", int), ("num_images", int), ("image_size", int)):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {shorten(getattr(self, name))}")

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return dict(self.__dict__)

    def difference(self, other: TrainedOn, *, one_is: str = "in the folder", other_is: str = "asked for") -> str | None:
        """The first field in which a run on these groups and one on the others are two; None where they are one."""
        left_out = set(DERIVED)
        for name in STREAMED:
            if None in (getattr(self, name), getattr(other, name)):
                left_out.add(name)  # a shuffled run: `order` tells it from a streamed one
        mine, theirs = (
            {"trained_on": {name: value for name, value in groups.to_json().items() if name not in left_out}}
            for groups in (self, other)
        )
        return first_difference(mine, theirs, one_is=one_is, other_is=other_is)

    def parts(self) -> tuple[SeenGroups, ...]:
        """The groups, and the real images in the batches where there are any."""
        groups = self._part("", frozenset(int(label) for label in self.class_names))
        return (groups,) if self.mixed_recipe_id is None else (groups, self._part("mixed_", frozenset()))

    def _part(self, prefix: str, classes: frozenset[int]) -> SeenGroups:
        return SeenGroups(classes=classes, **{name: getattr(self, prefix + name) for name in _PINS})


def describe_groups(
    config: TrainConfig, dataset: GroupDataset, real: GroupDataset | None, *, num_processes: int
) -> TrainedOn:
    """What the run's folder says of the groups and of the real images among them."""
    streamed: dict[str, Any] = {"shard_size": dataset.manifest.shard_size, "num_processes": num_processes}
    mixed: dict[str, Any] = {}
    if real is not None:
        mixed = {f"mixed_{name}": value for name, value in _pins(real).items()}
    return TrainedOn(
        **_pins(dataset),
        num_images=dataset.num_images,
        image_size=dataset.image_size,
        class_names={str(label): name for label, name in sorted(dataset.class_names.items())},
        **(streamed if config.order == "streamed" else {}),
        **mixed,
    )


def _pins(dataset: GroupDataset) -> dict[str, JSON]:
    recipe = dataset.manifest.recipe
    return {
        "recipe_id": recipe.id,
        "num_groups": len(dataset),
        "latents_id": hash_latents(recipe),
        "content_sha256": content_of(recipe),
        "split": split_of(recipe),
    }


def hash_latents(recipe: Recipe) -> str:
    """sha256 (hex) of what decides the anchor of group i beside its label.

    Datasets that differ in views, codec, classes or class weights have other recipe ids, and yet the same anchors
    wherever their labels agree: whoever was trained on one of them has seen the anchors of the other.
    """
    source = {name: value for name, value in recipe.source.items() if name != "class_weights"}
    deciding = normalised_numbers({"source": source, "seed": recipe.seed})
    return hashlib.sha256(canonical_json(deciding).encode()).hexdigest()


def content_of(recipe: Recipe) -> str | None:
    """sha256 (hex) of the collection that real images were packed from, in whatever order; None of rendered ones."""
    return recipe.source["content_sha256"] if recipe.is_real else None


def split_of(recipe: Recipe) -> str | None:
    """Which part of a collection was packed: train, test or all; None of rendered images."""
    return recipe.source["split"] if recipe.is_real else None
