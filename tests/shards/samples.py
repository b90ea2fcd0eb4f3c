"""What several tests of this package begin with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from shards import GroupDataset, Manifest, Recipe, RenderSettings
from shards.claims import Claim
from shards.work import WorkPlan

RENDER = RenderSettings(batch_size=4, dtype="float32")
PLAN = WorkPlan(recipe_id="a" * 64, render=RENDER, num_groups=10, shard_size=4)
Build = Callable[..., Manifest]
MakeRecipe = Callable[..., Recipe]


def claim(index: int, *, host: str = "elsewhere-01234567", pid: int = 7, began: float = 1.0) -> Claim:
    return Claim(index=index, count=4, host=host, pid=pid, device="cuda:0", task="1 of 2", began=began)


def hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file that is a function of the recipe: all but the markers, which hold times."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock" and not path.name.endswith(".done.json")
    }


def assert_same(there: GroupDataset, here: GroupDataset) -> None:
    images, labels = there.batch(range(len(there)))
    expected_images, expected_labels = here.batch(range(len(here)))
    assert np.array_equal(images, expected_images) and np.array_equal(labels, expected_labels)
    assert np.array_equal(there.labels, here.labels) and there[3].views == here[3].views
