"""A dataset rendered from another one's manifest, and how far the two are the same.

    report = reproduce_dataset(RenderConfig(manifest=Path("theirs/manifest.json"), out=Path("ours")))
    report.describe()  # "L0 plan: same; L1 bytes: 4 of 4 tars identical to the manifest's"

The manifest is all that has to travel. Where the original shards lie beside it, pixels are compared too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shards.canonical import JSON, first_difference
from shards.dataset import GroupDataset
from shards.errors import DamageError
from shards.manifest import Manifest, load_manifest
from shards.markers import tar_path
from shards.recipe import member_names
from synthgen.config import RenderConfig
from synthgen.original import Original, read_original
from synthgen.rendering import render_dataset

if TYPE_CHECKING:
    from synthgen.sameness import Sameness

_MOST_COMPARED_GROUPS = 256


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How far a dataset is the one that its manifest describes."""

    shards: int
    identical_shards: int
    """Tars with the sha256 of the manifest's table."""
    environment_difference: str | None
    """First difference between where the original was rendered and where this was; None where there is none."""
    sameness: Sameness | None
    """Groups of differing shards compared with the originals; None where none differ or the originals are not here."""

    @property
    def ok(self) -> bool:
        """Whether this is what is promised: identical bytes or, in another environment, nothing that is not close."""
        if self.identical_shards == self.shards:
            return True
        return self.environment_difference is not None and (self.sameness is None or self.sameness.ok)

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {**asdict(self), "sameness": self.sameness.to_json() if self.sameness else None, "ok": self.ok}

    def describe(self) -> str:
        """The levels of sameness in one line."""
        if self.identical_shards == self.shards:
            return f"L0 plan: same; L1 bytes: {self.shards} of {self.shards} tars identical to the manifest's"
        where = self.environment_difference or "in the same environment"
        line = f"L1 bytes: {self.identical_shards} of {self.shards} tars identical ({where})"
        if self.sameness is None:
            return f"L0 plan: same recipe; {line}; L2 pixels: not compared, the original shards are not here"
        return f"{line}; of the others: {self.sameness.describe()}"


def reproduce_dataset(config: RenderConfig, *, quiet: bool = False) -> Reproduction | None:
    """Renders what is missing of the dataset that a manifest describes, and compares the whole with the manifest.

    Of a task, only its own shards: None where shards of other tasks are missing still.

    Raises:
        ValueError: the request cannot work as it stands; nothing was rendered.
        DamageError: the manifest was altered, or bytes differ in the same environment, or pixels are not close.
        OSError: as render_dataset.
    """
    original = read_original(config)
    if render_dataset(config, quiet=quiet) is None:
        return None
    report = compare_datasets(original, config.out)
    if not report.ok:
        raise DamageError(f"{config.out} is not what {original.path} describes: {report.describe()}")
    return report


def compare_datasets(original: Original, out: Path) -> Reproduction:
    """Compares the finished dataset in `out` with the manifest that it was rendered from, and with its shards if here.

    Of shards whose bytes differ, groups spread evenly over all of them are compared pixel by pixel.

    Raises:
        DamageError: a shard is truncated or does not decode.
    """
    ours, theirs = load_manifest(out), original.manifest
    assert ours.recipe.id == theirs.recipe.id and ours.num_groups == theirs.num_groups, "checked before rendering"
    differing = [a.index for a, b in zip(theirs.shards, ours.shards, strict=True) if a != b]
    difference = _environment_difference(theirs, ours) if differing else None
    sameness = None
    if differing and _shards_at_hand(original, out, differing):
        sameness = _compare_groups(original, out, differing, difference)
    return Reproduction(
        shards=len(theirs.shards),
        identical_shards=len(theirs.shards) - len(differing),
        environment_difference=difference,
        sameness=sameness,
    )


def _environment_difference(theirs: Manifest, ours: Manifest) -> str | None:
    """The first difference between any two environments of the two datasets."""
    if not theirs.environments:
        return "the manifest does not say where it was rendered"
    for before in theirs.environments:
        for after in ours.environments:
            difference = first_difference(before, after, one_is="in the manifest", other_is="here")
            if difference is not None:
                return difference
    return None


def _shards_at_hand(original: Original, out: Path, differing: list[int]) -> bool:
    folder = original.path.parent
    if folder.resolve() == out.resolve():  # rendered in place: what stood there is gone
        return False

    def size(index: int) -> int:
        path = tar_path(folder, index)
        return path.stat().st_size if path.exists() else -1

    return all(size(index) == original.manifest.shards[index].bytes for index in differing)


def _compare_groups(original: Original, out: Path, differing: list[int], difference: str | None) -> Sameness:
    from synthgen.sameness import Comparison

    before, after = GroupDataset(original.path.parent), GroupDataset(out)
    names = member_names(original.manifest.recipe)
    comparison = Comparison(original.manifest)
    for index in _spread(original.manifest, differing):
        comparison.add(
            index,
            stored=[before.read(index, name) for name in names],
            again=[bytes(after.read(index, name)) for name in names],
            elsewhere=difference,
        )
    return comparison.result()


def _spread(manifest: Manifest, differing: list[int]) -> list[int]:
    """Groups at equal distances over all that the differing shards hold."""
    shards = [manifest.shards[index] for index in differing]
    held = np.concatenate([np.arange(shard.first, shard.first + shard.count) for shard in shards])
    places = np.linspace(0, len(held) - 1, min(len(held), _MOST_COMPARED_GROUPS)).round().astype(np.int64)
    return held[places].tolist()
