"""What a dataset is, in one small file: the recipe that decides its pixels, and the table of its shards.

Whoever has the manifest can render the same shards again, so it pins every choice. Two datasets with one recipe id are
prefixes of one endless sequence of groups.

    manifest = load_manifest(Path("datasets/demo"))
    manifest.recipe.id, manifest.num_groups
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.canonical import JSON, parse_json, plain_copy, shorten
from shards.errors import DamageError
from shards.recipe import Recipe, RenderSettings

FORMAT = 1
MANIFEST_NAME = "manifest.json"
DATA_FOLDER = "data"
REPAIR = "delete this file and run the command that made the dataset again"
LARGEST_NUM_GROUPS = 10**9  # a key has nine digits
_LARGEST_COUNT = 2**63 - 1  # of int64, in which offsets are stored
_SHA256_PATTERN = re.compile("[0-9a-f]{64}")


# ---------------------------------------------------------------------------------------------------------------------
# Names


def shard_name(index: int) -> str:
    """File name of a shard; it carries no total, so that growing a dataset renames nothing."""
    return f"{shard_stem(index)}.tar"


def shard_counts(num_groups: int, shard_size: int) -> list[int]:
    """Groups of every shard of a dataset, in order; only the last may hold fewer than shard_size."""
    return [min(shard_size, num_groups - first) for first in range(0, num_groups, shard_size)]


def shard_stem(index: int) -> str:
    """What the names of a shard's tar, index and marker begin with."""
    return f"train-{index:06d}"


def group_key(index: int) -> str:
    """WebDataset key of group `index`: nine digits."""
    assert 0 <= index < LARGEST_NUM_GROUPS, index
    return f"{index:09d}"


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

    def __post_init__(self) -> None:
        for name in ("index", "first", "count", "bytes"):
            value = getattr(self, name)
            if not _is_count(value):
                raise ValueError(f"shard {self.name}: {name} is {shorten(value)}, not a whole number from 0 on")
        if not isinstance(self.sha256, str) or not _SHA256_PATTERN.fullmatch(self.sha256):
            raise ValueError(f"shard {self.name}: sha256 is {shorten(self.sha256)}, not 64 digits of 0-9 and a-f")


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
        for number, environment in enumerate(self.environments):
            if not isinstance(environment, dict):
                raise ValueError(f"environments.{number} is {shorten(environment)}, not a mapping")
        if not _is_count(self.num_groups) or not 1 <= self.num_groups <= LARGEST_NUM_GROUPS:
            raise ValueError(f"num_groups is {self.num_groups!r}, not a whole number from 1 to 10^9")
        if not _is_count(self.shard_size) or self.shard_size < 1:
            raise ValueError(f"shard_size is {self.shard_size!r}, not a whole number from 1 on")
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
                class_names=parse_class_names(data["class_names"]),
                environments=tuple(data.get("environments", ())),
            )
            stored_id = data["recipe_id"]
            if not isinstance(stored_id, str):
                raise ValueError(f"recipe_id is {shorten(stored_id)}, not text")
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DamageError(f"the manifest was altered ({type(error).__name__}: {error})") from error
        if stored_id != recipe.id:
            raise DamageError(f"the manifest's recipe was altered: its id is {recipe.id[:12]}…, not {stored_id[:12]}…")
        return manifest


def parse_class_names(data: Mapping[str, JSON]) -> dict[int, str]:
    """Names by class id, as manifest and markers hold them.

    Raises:
        ValueError: a key is no number, or a name no text.
    """
    for label, name in data.items():
        if not isinstance(name, str):
            raise ValueError(f"class_names.{label} is {shorten(name)}, not text")
    return {int(label): name for label, name in data.items()}


def _is_count(value: JSON) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_COUNT  # JSON's true would be an int, too


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
    return parse_manifest(text, str(path), fix=REPAIR)


def parse_manifest(text: bytes, path: str, *, fix: str = "get the file anew from where it came") -> Manifest:
    """The manifest in the bytes of a manifest.json; `path` and what to do are for the messages."""
    try:
        return Manifest.from_json(parse_json(text))
    except DamageError as error:
        raise DamageError(f"{path}: {error}; {fix}") from error


def _why_no_manifest(directory: Path) -> str:
    if not directory.is_dir():
        if ":/" in str(directory):
            return f"{directory} is an address: give a folder of this machine; contrast train reads from addresses"
        return f"no folder {directory}: check the path"
    if not (directory / DATA_FOLDER).is_dir():
        return f"no manifest.json in {directory}: it is not a dataset; give a folder that synthgen render wrote to"
    again = "run the same synthgen render (or shards from-images) again"
    return f"no manifest.json in {directory}: it was not finished; {again}"


def check_format(data: Mapping[str, JSON], what: str) -> None:
    """Raises ValueError when `data` was written by another version of the format, DamageError when it is no object."""
    if not isinstance(data, dict) or "format" not in data:
        raise DamageError(f"the {what} has no field 'format'")
    if data["format"] != FORMAT:
        raise ValueError(f"the {what} is of format {data['format']}, this version reads {FORMAT}: update the package")
