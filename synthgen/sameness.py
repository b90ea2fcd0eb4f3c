"""How far groups that were rendered again are the groups that were there: plan, bytes, pixels.

Three levels, each weaker than the one before it and promised to more people:

    L1  bytes   the same wherever weights, render batch, dtype, device model and versions are the same
    L0  plan    index, label, view parameters and stored latents: the same everywhere
    L2  pixels  across devices, dtypes and versions only close; how close is measured

    comparison = Comparison(manifest)
    comparison.add(42, stored=members, again=members, elsewhere=None)
    comparison.result().ok
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from shards.canonical import JSON, first_difference
from shards.codec import decode_image
from shards.manifest import Manifest, group_key
from shards.recipe import member_names

CLOSE = {"jpg": 4.0, "png": 1.5}
"""Mean difference of an image, of 255 levels, up to which it counts as the same picture rounded otherwise, by codec.

About twice what bfloat16 against float32 gives at 32 px (worst images: 2.6 as jpg, 0.8 as png); a jpg rounds twice, and
what the generator moved by half a level it moves by whole steps of its table. Other weights or seeds give 20 and more.
"""
_MOST_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True)
class Sameness:
    """What was found, level by level. Differences are of stored pixels, in levels of 255."""

    groups: int
    """Groups that were compared."""
    identical_groups: int
    """Groups whose members are all the same bytes."""
    mean: float
    """Mean absolute difference over all pixels and channels of all groups."""
    p99: int
    """99th percentile of the absolute differences."""
    max: int
    """Largest absolute difference."""
    worst_image: str | None
    """The image that differs most on the mean; None where no pixel differs."""
    worst_image_mean: float
    """Its mean absolute difference."""
    tolerance: float
    """Largest worst_image_mean that counts as close."""
    environment_difference: str | None
    """First difference between where the groups were rendered and where they were rendered again."""
    plan_problems: tuple[str, ...]
    """What of the plan is not the recipe's: index, label, view parameters, latents."""
    byte_problems: tuple[str, ...]
    """Images of other bytes although everything that decides them is the same."""

    @property
    def plan_same(self) -> bool:
        """L0: whether index, label, view parameters and stored latents agree."""
        return not self.plan_problems

    @property
    def identical(self) -> bool:
        """L1: whether all bytes agree."""
        return self.identical_groups == self.groups

    @property
    def close(self) -> bool:
        """L2: whether every image is close."""
        return self.worst_image_mean <= self.tolerance

    @property
    def ok(self) -> bool:
        """Whether this is what is promised: the plan, and identical bytes or, in another environment, close pixels."""
        return self.plan_same and not self.byte_problems and self.close

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        verdicts = {"plan_same": self.plan_same, "identical": self.identical, "close": self.close, "ok": self.ok}
        lists = {"plan_problems": list(self.plan_problems), "byte_problems": list(self.byte_problems)}
        return {**asdict(self), **lists, **verdicts}

    def describe(self) -> str:
        """The three levels in one line."""
        plan = "same" if self.plan_same else f"BROKEN ({self.plan_problems[0]})"
        if self.identical:
            return f"L0 plan: {plan}; L1 bytes: identical in all {self.groups} groups"
        where = self.environment_difference or "in the same environment"
        line = (
            f"L0 plan: {plan}; L1 bytes: identical in {self.identical_groups} of {self.groups} groups ({where}); "
            f"L2 pixels: mean {self.mean:.2f}, p99 {self.p99}, max {self.max} of 255"
        )
        if self.worst_image is None:
            return line
        verdict = "close, within" if self.close else "NOT CLOSE, beyond"
        return f"{line}, worst image {self.worst_image} {self.worst_image_mean:.2f}: {verdict} {self.tolerance:g}"


class Comparison:
    """Adds up groups; its memory does not grow with their number. A tolerance of None is the codec's in CLOSE."""

    def __init__(self, manifest: Manifest, *, tolerance: float | None = None) -> None:
        self._names = member_names(manifest.recipe)
        self._num_images = manifest.num_images
        self._tolerance = CLOSE[manifest.recipe.image["format"]] if tolerance is None else tolerance
        self._counts = np.zeros(256, np.int64)  # pixels by how much they differ
        self._pixels_per_image = 3 * int(manifest.recipe.image["size"]) ** 2
        self._groups = self._identical = 0
        self._worst: tuple[float, str | None] = (0.0, None)
        self._elsewhere: str | None = None
        self._plan_problems: list[str] = []
        self._byte_problems: list[str] = []

    def add(
        self, index: int, *, stored: Sequence[bytes | memoryview], again: Sequence[bytes], elsewhere: str | None
    ) -> None:
        """Compares one group, its members in tar order.

        Args:
            elsewhere: what differs between the two environments; None where they are the same.

        Raises:
            DamageError: a stored image does not decode.
        """
        self._groups += 1
        self._identical += all(a == b for a, b in zip(stored, again, strict=True))
        for column, (name, old, new) in enumerate(zip(self._names, stored, again, strict=True)):
            member = f"{group_key(index)}.{name}"
            if column < self._num_images:
                self._add_image(member, old, new, elsewhere)
            elif old != new:
                _note(self._plan_problems, f"{member}: {_plan_difference(bytes(old), new)}")

    def _add_image(self, member: str, old: bytes | memoryview, new: bytes, elsewhere: str | None) -> None:
        if old == new:
            self._counts[0] += self._pixels_per_image
            return
        if elsewhere is None:
            _note(self._byte_problems, f"{member}: other bytes in the same environment")
        else:
            self._elsewhere = self._elsewhere or elsewhere
        before, after = decode_image(old, what=member), decode_image(new, what=f"{member}, rendered again,")
        if before.shape != after.shape:
            size = f"{before.shape[1]}x{before.shape[0]}"
            _note(self._plan_problems, f"{member}: {size} pixels, not {after.shape[1]}x{after.shape[0]}")
            return
        differences = np.abs(before.astype(np.int16) - after)
        self._counts += np.bincount(differences.reshape(-1), minlength=256)
        self._worst = max(self._worst, (float(differences.mean()), member), key=lambda entry: entry[0])

    def result(self) -> Sameness:
        """What the groups so far amount to."""
        total = max(int(self._counts.sum()), 1)
        reached = np.searchsorted(np.cumsum(self._counts), 0.99 * total)
        differing = np.flatnonzero(self._counts)
        return Sameness(
            groups=self._groups,
            identical_groups=self._identical,
            mean=float(self._counts @ np.arange(256)) / total,
            p99=int(reached),
            max=int(differing[-1]) if len(differing) else 0,
            worst_image=self._worst[1],
            worst_image_mean=self._worst[0],
            tolerance=self._tolerance,
            environment_difference=self._elsewhere,
            plan_problems=tuple(self._plan_problems),
            byte_problems=tuple(self._byte_problems),
        )


def _plan_difference(old: bytes, new: bytes) -> str:
    try:
        difference = first_difference(json.loads(old), json.loads(new), other_is="by the recipe")
    except (ValueError, AttributeError, TypeError):  # latents, or JSON that is none
        difference = None
    return difference or "not the recipe's"


def _note(problems: list[str], problem: str) -> None:
    if len(problems) < _MOST_PROBLEMS:
        problems.append(problem)
