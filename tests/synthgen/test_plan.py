"""Plans: shards and blocks cover every group once, and what a group is does not depend on how it was planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.manifest import Recipe
from synthgen.classes import parse_classes
from synthgen.plan import draw_groups, plan_blocks, plan_shards


@pytest.mark.parametrize("num_groups", [1, 9, 10, 11, 1000])
@pytest.mark.parametrize("shard_size", [1, 7, 10, 1000])
def test_shards_cover_every_group_once(num_groups: int, shard_size: int) -> None:
    shards = plan_shards(num_groups=num_groups, shard_size=shard_size)
    assert [i for shard in shards for i in range(shard.first, shard.first + shard.count)] == list(range(num_groups))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.first == shard.index * shard_size for shard in shards)
    assert all(shard.count == shard_size for shard in shards[:-1])


@pytest.mark.parametrize("batch_size", [1, 3, 10, 16])
def test_blocks_are_aligned_to_the_sequence_and_trimmed_to_the_shard(batch_size: int) -> None:
    for shard in plan_shards(num_groups=47, shard_size=10):
        kept = []
        for block in plan_blocks(shard, batch_size=batch_size):
            assert block.first % batch_size == 0 and block.size == batch_size
            kept += list(range(block.first, block.first + block.size))[block.kept]
        assert kept == list(range(shard.first, shard.first + shard.count))


def test_a_group_is_the_same_in_every_block() -> None:
    recipe = Recipe(
        source={"truncation": 0.5},
        classes=(1, 5, 8),
        views=({"policy": "gaussian", "std": 0.2}, {"policy": "independent"}),
        seed=4,
        image={"size": 32, "format": "png"},
    )
    whole = draw_groups(recipe, latent_dim=6, first=0, count=40)
    assert whole.latents.shape == (3, 40, 6) and whole.latents.dtype == np.float32
    assert np.abs(whole.latents[[0, 2]]).max() <= 0.5 * 2.0
    part = draw_groups(recipe, latent_dim=6, first=13, count=9)
    np.testing.assert_array_equal(part.latents, whole.latents[:, 13:22])
    np.testing.assert_array_equal(part.labels, whole.labels[13:22])
    assert part.parameters == [row[13:22] for row in whole.parameters]


def test_classes_from_text_and_file(tmp_path: Path) -> None:
    assert parse_classes("all", num_classes=4) == (0, 1, 2, 3)
    assert parse_classes("all", num_classes=0) == ()
    assert parse_classes("7, 0,3", num_classes=10) == (0, 3, 7)
    for classes in ((7, 0, 3), [7, 0, 3], np.array([7, 0, 3]), {7, 0, 3}):
        assert parse_classes(classes, num_classes=10) == (0, 3, 7)
    file = tmp_path / "ids.txt"
    file.write_text("# animals\n7  # horse\n\n3\n")
    assert parse_classes(str(file), num_classes=10) == (3, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,10", "no class 10"),
        ("-1", "not a class id"),
        ("0,,3", "not a class id"),
        ("3,3", "given twice"),
        ("animals.txt", "existing file"),
        ("", "existing file"),
        ([0, 10], "no class 10"),
        ([0, True], "'True' is not a class id"),
        ([0.5], "'0.5' is not a class id"),
        ((), "at least one"),
        (3, r"such as \[0, 3, 7\]"),
    ],
)
def test_wrong_classes_are_named(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_classes(text, num_classes=10)


def test_wrong_class_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"ids\.txt: no class id"):
        parse_classes(str(file), num_classes=10)
    file.write_text("3\nhorse\n")
    with pytest.raises(ValueError, match=r"ids\.txt: 'horse'"):
        parse_classes(str(file), num_classes=10)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"^--classes .*ids\.txt: not a text file") as caught:
        parse_classes(str(file), num_classes=10)
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match="no classes"):
        parse_classes("0", num_classes=0)
