"""Which groups a run learnt from, said so that any dataset can be told from them, wherever both lie now.

trained_on = describe_groups(config, dataset, real=None, num_processes=1)    # what RUN/config.json says of them
trained_on.difference(other), trained_on.parts()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from contrast.config import TrainConfig
from shards.canonical import JSON, first_difference, shorten
from shards.dataset import GroupDataset
from shards.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class SeenGroups:
    """The first groups of a dataset: recipe and number pin the pixels."""

    recipe: Recipe
    num_groups: int

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {"recipe_id": self.recipe.id, "num_groups": self.num_groups, "recipe": self.recipe.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> SeenGroups:
        """The inverse of to_json.

        Raises:
            TypeError: a field is missing, or not as it was written.
        """
        try:
            recipe = Recipe.from_json(data["recipe"])
        except ValueError as error:
            raise TypeError(str(error)) from error
        if data["recipe_id"] != recipe.id:
            raise TypeError("the recipe is not that of the recipe_id")
        if not isinstance(data["num_groups"], int):
            raise TypeError(f"num_groups is {shorten(data['num_groups'])}")
        return cls(recipe=recipe, num_groups=data["num_groups"])


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """The groups of a run, wherever they lie now."""

    groups: SeenGroups
    class_names: Mapping[str, str]
    """Class id, as text, to name."""
    real: SeenGroups | None = None
    """The real images in the batches, where there are any."""
    shard_size: int | None = None
    """Groups of a shard where they decide the order of the groups, so of streamed runs alone."""
    num_processes: int | None = None
    """Over which the groups are dealt where that decides their order, so of streamed runs alone."""

    @property
    def num_groups(self) -> int:
        """Groups that `--n` left."""
        return self.groups.num_groups

    @property
    def num_images(self) -> int:
        """Of a group: anchor and views."""
        return 1 + self.groups.recipe.num_views

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return int(self.groups.recipe.image["size"])

    def parts(self) -> tuple[SeenGroups, ...]:
        """The groups, and the real images in the batches where there are any."""
        return (self.groups,) if self.real is None else (self.groups, self.real)

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {
            **self.groups.to_json(),
            "class_names": dict(self.class_names),
            "real": None if self.real is None else self.real.to_json(),
            "shard_size": self.shard_size,
            "num_processes": self.num_processes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> TrainedOn:
        """The inverse of to_json.

        Raises:
            KeyError, TypeError: a field is missing, or not as it was written.
        """
        if not isinstance(data["class_names"], dict):
            raise TypeError(f"class_names is {shorten(data['class_names'])}")
        return cls(
            groups=SeenGroups.from_json(data),
            class_names=data["class_names"],
            real=None if data["real"] is None else SeenGroups.from_json(data["real"]),
            shard_size=data["shard_size"],
            num_processes=data["num_processes"],
        )

    def difference(self, other: TrainedOn, *, one_is: str = "in the folder", other_is: str = "asked for") -> str | None:
        """The first field in which a run on these groups and one on the others are two; None where they are one."""
        mine, theirs = ({"trained_on": groups.settings()} for groups in (self, other))
        if None in (self.shard_size, other.shard_size):  # `order` tells a shuffled run from a streamed one
            for fields in (mine, theirs):
                del fields["trained_on"]["shard_size"], fields["trained_on"]["num_processes"]
        return first_difference(mine, theirs, one_is=one_is, other_is=other_is)

    def settings(self) -> dict[str, JSON]:
        """As to_json, without the recipe ids, which follow from the recipes and say nothing to people."""
        fields = self.to_json()
        real = fields["real"]
        real = real and {name: value for name, value in real.items() if name != "recipe_id"}
        return {**{name: value for name, value in fields.items() if name != "recipe_id"}, "real": real}


def describe_groups(
    config: TrainConfig, dataset: GroupDataset, real: GroupDataset | None, *, num_processes: int
) -> TrainedOn:
    """What the run's folder says of the groups and of the real images among them."""
    is_streamed = config.order == "streamed"
    return TrainedOn(
        groups=SeenGroups(recipe=dataset.manifest.recipe, num_groups=len(dataset)),
        class_names={str(label): name for label, name in sorted(dataset.class_names.items())},
        real=None if real is None else SeenGroups(recipe=real.manifest.recipe, num_groups=len(real)),
        shard_size=dataset.manifest.shard_size if is_streamed else None,
        num_processes=num_processes if is_streamed else None,
    )
