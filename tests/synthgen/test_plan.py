"""Plans: shards and blocks cover every group once, and what a group is does not depend on how it was planned."""

from __future__ import annotations

import numpy as np
import pytest

from shards.recipe import Recipe
from synthgen.draws import draw_truncated_normal
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


RECIPE = Recipe(
    source={"truncation": 0.5},
    classes=(1, 5, 8),
    views=({"policy": "gaussian", "std": 0.2}, {"policy": "independent"}),
    seed=4,
    image={"size": 32, "format": "png"},
)


def test_latents_are_scaled_once_and_rounded_once() -> None:
    """Against the formulas of docs/views.md, in float64."""

    def draw(stream: str) -> np.ndarray:
        return draw_truncated_normal(seed=4, stream=stream, first=13, count=9, dim=6, bound=2.0)

    anchor = 0.5 * draw("anchor")
    expected = np.stack([anchor, anchor + 0.5 * 0.2 * draw("view/0"), 0.5 * draw("view/1")])
    latents = draw_groups(RECIPE, latent_dim=6, first=13, count=9).latents
    np.testing.assert_allclose(latents, expected, rtol=2**-23, atol=0)


def test_a_group_is_the_same_in_every_block() -> None:
    whole = draw_groups(RECIPE, latent_dim=6, first=0, count=40)
    assert whole.latents.shape == (3, 40, 6) and whole.latents.dtype == np.float32
    assert np.abs(whole.latents[[0, 2]]).max() <= 0.5 * 2.0
    part = draw_groups(RECIPE, latent_dim=6, first=13, count=9)
    np.testing.assert_array_equal(part.latents, whole.latents[:, 13:22])
    np.testing.assert_array_equal(part.labels, whole.labels[13:22])
    assert part.parameters == [row[13:22] for row in whole.parameters]
