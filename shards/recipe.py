"""What decides the pixels of a dataset: the recipe, and the settings of the render that decide their last bits.

recipe = Recipe(source=…, classes=(0, 1), views=({"policy": "gaussian", "std": 0.3},), seed=0, image=…)
recipe.id                             # two datasets of one id are prefixes of one endless sequence of groups
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from shards.canonical import JSON, canonical_json, first_difference, normalised_numbers, plain_copy, shorten

_SUBSAMPLINGS = ("444", "422", "420")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the pixels of group i. Not the number of groups, of shards, or of devices."""

    source: Mapping[str, JSON]
    """Where images come from: generator, weights_sha256, truncation, config_sha256 where its configuration is its own,
    and class_weights where classes are not alike; or, for real images, their collection."""
    classes: tuple[int, ...]
    """Class ids that take part, ascending; empty where there are no labels."""
    views: tuple[Mapping[str, JSON], ...]
    """One entry per view: its policy and that policy's parameters."""
    seed: int
    """Seed of every random draw."""
    image: Mapping[str, JSON]
    """size in pixels, format jpg or png; for jpg also quality (1 to 100) and subsampling (444, 422 or 420)."""
    store_latents: bool = False
    """Whether every group carries its latents as a member latents.npy."""

    def __post_init__(self) -> None:
        for name in ("source", "image"):
            object.__setattr__(self, name, plain_copy(getattr(self, name), name))
        object.__setattr__(self, "classes", tuple(plain_copy(list(self.classes), "classes")))
        object.__setattr__(self, "views", tuple(plain_copy(list(self.views), "views")))
        if any(not _is_int(c) or c < 0 for c in self.classes):
            raise ValueError(f"classes {shorten(list(self.classes))}: give class ids as whole numbers from 0 on")
        if any(a >= b for a, b in zip(self.classes, self.classes[1:], strict=False)):
            raise ValueError(f"classes {shorten(list(self.classes))}: give every class once, in ascending order")
        if not _is_int(self.seed) or self.seed < 0:
            raise ValueError(f"seed {self.seed!r}: give a whole number from 0 on")
        if any(not isinstance(view, dict) for view in self.views):
            raise ValueError("views: give one mapping per view, such as {'policy': 'gaussian', 'std': 0.3}")
        if not isinstance(self.store_latents, bool):
            raise ValueError(f"store_latents {self.store_latents!r}: give true or false")
        _check_image(self.image)

    @property
    def num_views(self) -> int:
        """Number of views beside the anchor."""
        return len(self.views)

    @property
    def is_real(self) -> bool:
        """Whether the images were packed, not rendered: see shards.packing."""
        return self.source.get("kind") == "images"

    @property
    def command(self) -> str:
        """What makes such a dataset, resumes it and repairs it."""
        return "shards from-images" if self.is_real else "synthgen render"

    @cached_property
    def id(self) -> str:
        """sha256 (hex) of the recipe's canonical JSON; 1 and 1.0 give the same one."""
        return hashlib.sha256(canonical_json(normalised_numbers(self.to_json())).encode()).hexdigest()

    def to_json(self) -> dict[str, JSON]:
        """Plain lists, mappings and numbers, fit for json.dumps."""
        return plain_copy(
            {
                "source": self.source,
                "classes": list(self.classes),
                "views": list(self.views),
                "seed": self.seed,
                "image": self.image,
                "store_latents": self.store_latents,
            },
            "recipe",
        )

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> Recipe:
        """The inverse of to_json.

        Raises:
            ValueError: a field is missing, unknown, or out of its range.
        """
        fields = dict(_exactly(data, "recipe", ("source", "classes", "views", "seed", "image", "store_latents")))
        return cls(**{**fields, "classes": tuple(fields["classes"]), "views": tuple(fields["views"])})

    def difference(self, other: Recipe) -> str | None:
        """The first field in which `other`, asked for, differs from this one, in the folder; None where they agree.

        "source.truncation: 1.0 in the folder, 0.5 asked for"
        """
        return first_difference(self.to_json(), other.to_json())


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """What decides the last bits of the pixels without being part of the recipe; pinned once per dataset."""

    batch_size: int
    """Images per forward pass."""
    dtype: str
    """Number format of the generator: float32 or bfloat16."""
    compiled: bool = False
    """Whether the passes are what torch.compile makes of them: it rounds less often, and so elsewhere."""

    def __post_init__(self) -> None:
        if not _is_int(self.batch_size) or self.batch_size < 1:
            raise ValueError(f"batch size {self.batch_size!r}: give a whole number above 0")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {self.dtype!r}: give float32 or bfloat16")
        if not isinstance(self.compiled, bool):
            raise ValueError(f"compiled {self.compiled!r}: give true or false")

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps; `compiled` is in it only where it is true, as in manifests before it."""
        fields = asdict(self)
        return fields if self.compiled else {name: fields[name] for name in ("batch_size", "dtype")}

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> RenderSettings:
        """The inverse of to_json."""
        optional = ("compiled",) if isinstance(data, dict) and "compiled" in data else ()
        return cls(**_exactly(data, "render", ("batch_size", "dtype", *optional)))

    def difference(self, other: RenderSettings) -> str | None:
        """As Recipe.difference."""
        return first_difference(asdict(self), asdict(other), "render.")


def member_names(recipe: Recipe) -> tuple[str, ...]:
    """The members of every group, without the key, in the order in which they lie in the tar."""
    extension = recipe.image["format"]
    images = ["anchor", *(f"view{view}" for view in range(recipe.num_views))]
    latents = ["latents.npy"] if recipe.store_latents else []
    return (*(f"{image}.{extension}" for image in images), *latents, "json")


def _exactly(data: Mapping[str, JSON], what: str, names: tuple[str, ...]) -> Mapping[str, JSON]:
    if not isinstance(data, dict) or set(data) != set(names):
        found = ", ".join(sorted(data)) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{what} has to have the fields {', '.join(names)}; it has {found}")
    return data


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_image(image: Mapping[str, JSON]) -> None:
    if image.get("format") not in ("jpg", "png"):
        raise ValueError(f"image format {image.get('format')!r}: give jpg or png")
    names = {"size", "format"} | ({"quality", "subsampling"} if image["format"] == "jpg" else set())
    if set(image) != names:
        raise ValueError(f"image: a {image['format']} has {', '.join(sorted(names))}; given {', '.join(sorted(image))}")
    if not _is_int(image["size"]) or not 1 <= image["size"] <= 65500:
        raise ValueError(f"image size {image['size']!r}: give a number of pixels from 1 to 65500")
    if image["format"] == "jpg":
        if not _is_int(image["quality"]) or not 1 <= image["quality"] <= 100:
            raise ValueError(f"image quality {image['quality']!r}: give a whole number from 1 to 100")
        if image["subsampling"] not in _SUBSAMPLINGS:
            raise ValueError(f"image subsampling {image['subsampling']!r}: give one of {', '.join(_SUBSAMPLINGS)}")
