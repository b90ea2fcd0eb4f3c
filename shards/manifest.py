"""What a dataset is, in one small file: the recipe that decides its pixels, and the table of its shards.

Whoever has the manifest can render the same shards again, so it pins every choice. Two datasets with one recipe id are
prefixes of one endless sequence of groups.

    manifest = load_manifest(Path("datasets/demo"))
    manifest.recipe.id, manifest.num_groups
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from shards.canonical import JSON, canonical_json, first_difference, normalised_numbers, plain_copy, shorten
from shards.console import DamageError

FORMAT = 1
MANIFEST_NAME = "manifest.json"
DATA_FOLDER = "data"
_REPAIR = "delete the file and run the same synthgen render again"
LARGEST_NUM_GROUPS = 10**9  # a key has nine digits

_SUBSAMPLINGS = ("444", "422", "420")


# ---------------------------------------------------------------------------------------------------------------------
# Names


def shard_name(index: int) -> str:
    """File name of a shard; it carries no total, so that growing a dataset renames nothing."""
    return f"{shard_stem(index)}.tar"


def shard_stem(index: int) -> str:
    """What the names of a shard's tar, index and marker begin with."""
    return f"train-{index:06d}"


def group_key(index: int) -> str:
    """WebDataset key of group `index`: nine digits."""
    assert 0 <= index < LARGEST_NUM_GROUPS, index
    return f"{index:09d}"


def member_names(recipe: Recipe) -> tuple[str, ...]:
    """The members of every group, without the key, in the order in which they lie in the tar."""
    extension = recipe.image["format"]
    images = ["anchor", *(f"view{view}" for view in range(recipe.num_views))]
    latents = ["latents.npy"] if recipe.store_latents else []
    return (*(f"{image}.{extension}" for image in images), *latents, "json")


# ---------------------------------------------------------------------------------------------------------------------
# Recipe


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the pixels of group i. Not the number of groups, of shards, or of devices."""

    source: Mapping[str, JSON]
    """Where images come from: generator, weights_sha256, truncation, and class_weights where classes are not alike; or,
    for real images, their collection."""
    classes: tuple[int, ...]
    """Class ids that take part, ascending; empty where there are no labels."""
    views: tuple[Mapping[str, JSON], ...]
    """One entry per view: its policy and that policy's parameters."""
    seed: int
    """Key of every draw."""
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

    def __post_init__(self) -> None:
        if not _is_int(self.batch_size) or self.batch_size < 1:
            raise ValueError(f"batch size {self.batch_size!r}: give a whole number above 0")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {self.dtype!r}: give float32 or bfloat16")

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> RenderSettings:
        """The inverse of to_json."""
        return cls(**_exactly(data, "render", ("batch_size", "dtype")))

    def difference(self, other: RenderSettings) -> str | None:
        """As Recipe.difference."""
        return first_difference(self.to_json(), other.to_json(), "render.")


# ---------------------------------------------------------------------------------------------------------------------
# Manifest


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One line of the manifest's table: groups first … first + count - 1 in one tar."""

    name: str
    index: int
    first: int
    count: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished dataset: recipe, size, and the table of shards."""

    recipe: Recipe
    render: RenderSettings
    num_groups: int
    shard_size: int
    shards: tuple[ShardRecord, ...]
    class_names: Mapping[int, str]
    """Names of the classes that occur."""
    environments: tuple[Mapping[str, JSON], ...] = ()
    """What the shards were rendered in, each once: where bytes differ elsewhere, it says why."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "environments", tuple(plain_copy(list(self.environments), "environments")))
        if not 1 <= self.num_groups <= LARGEST_NUM_GROUPS or self.shard_size < 1:
            raise ValueError(f"{self.num_groups} groups in shards of {self.shard_size}: both lie between 1 and 10^9")
        first = 0
        for index, shard in enumerate(self.shards):
            count = min(self.shard_size, self.num_groups - first)
            if (shard.name, shard.index, shard.first, shard.count) != (shard_name(index), index, first, count):
                raise ValueError(
                    f"table of shards: entry {index} is {shard.name} with {shard.count} groups from {shard.first} on, "
                    f"not {shard_name(index)} with {count} from {first} on"
                )
            first += count
        if first != self.num_groups:
            raise ValueError(f"table of shards: it holds {first} groups of {self.num_groups}")

    @property
    def num_images(self) -> int:
        """Images of a group: anchor and views."""
        return 1 + self.recipe.num_views

    @property
    def total_bytes(self) -> int:
        """Size of all tars."""
        return sum(shard.bytes for shard in self.shards)

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {
            "format": FORMAT,
            "recipe_id": self.recipe.id,
            "recipe": self.recipe.to_json(),
            "render": self.render.to_json(),
            "num_groups": self.num_groups,
            "shard_size": self.shard_size,
            "class_names": {str(label): name for label, name in sorted(self.class_names.items())},
            "environments": list(self.environments),
            "shards": [asdict(shard) for shard in self.shards],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> Manifest:
        """The inverse of to_json.

        Raises:
            ValueError: the format is of another version.
            DamageError: a field is missing or wrong, or the recipe id is not the recipe's.
        """
        check_format(data, "manifest")
        try:
            recipe = Recipe.from_json(data["recipe"])
            manifest = cls(
                recipe=recipe,
                render=RenderSettings.from_json(data["render"]),
                num_groups=data["num_groups"],
                shard_size=data["shard_size"],
                shards=tuple(ShardRecord(**shard) for shard in data["shards"]),
                class_names={int(label): name for label, name in data["class_names"].items()},
                environments=tuple(data.get("environments", ())),
            )
            stored_id = data["recipe_id"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamageError(f"the manifest was altered ({type(error).__name__}: {error})") from error
        if stored_id != recipe.id:
            raise DamageError(f"the manifest's recipe was altered: its id is {recipe.id[:12]}…, not {stored_id[:12]}…")
        return manifest


def manifest_bytes(manifest: Manifest) -> bytes:
    """The file manifest.json, byte for byte a function of the manifest."""
    return (json.dumps(manifest.to_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def load_manifest(directory: Path) -> Manifest:
    """Reads DIR/manifest.json.

    Raises:
        ValueError: there is none, because the folder is no dataset or its render was not finished.
        DamageError: it is not as it was written.
    """
    path = Path(directory) / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(_why_no_manifest(Path(directory))) from None
    return parse_manifest(text, str(path))


def parse_manifest(text: bytes, path: str) -> Manifest:
    """The manifest in the bytes of a manifest.json; `path` is for the messages."""
    try:
        return Manifest.from_json(json.loads(text))
    except DamageError as error:
        raise DamageError(f"{path}: {error}; {_REPAIR}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamageError(f"{path} is not JSON ({error}); {_REPAIR}") from error


def _why_no_manifest(directory: Path) -> str:
    if not directory.is_dir():
        return f"no folder {directory}: check the path"
    if not (directory / DATA_FOLDER).is_dir():
        return f"no manifest.json in {directory}: it is not a dataset; give the folder that synthgen render wrote to"
    return f"no manifest.json in {directory}: the render was not finished; run the same synthgen render again"


def check_format(data: Mapping[str, JSON], what: str) -> None:
    """Raises ValueError when `data` was written by another version of the format, DamageError when it is no object."""
    if not isinstance(data, dict) or "format" not in data:
        raise DamageError(f"the {what} has no field 'format'")
    if data["format"] != FORMAT:
        raise ValueError(f"the {what} is of format {data['format']}, this version reads {FORMAT}: update the package")


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
