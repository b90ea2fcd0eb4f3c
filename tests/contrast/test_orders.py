"""The streamed order: whole shards for few ranks, no group twice, as many batches for every rank."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from contrast.orders import ShuffledOrder, StreamedOrder, draw_order
from shards.stream import shard_order


def epoch_of(order: StreamedOrder, epoch: int) -> np.ndarray:
    first = epoch * order.steps_per_epoch
    return np.concatenate([order.groups(step) for step in range(first, first + order.steps_per_epoch)])


def test_the_streamed_order_is_pinned() -> None:
    order = StreamedOrder(1000, 64, batch_size=50, seed=3, rank=1, world_size=2, window=100)
    digest = hashlib.sha256(epoch_of(order, 2).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "423f5e039d730678"
    of_runs = StreamedOrder(20_000, 1000, batch_size=500, seed=3)  # their window
    assert hashlib.sha256(epoch_of(of_runs, 0).astype("<i8").tobytes()).hexdigest()[:16] == "cbfbacbfc0c70216"


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize(("num_groups", "shard_size", "window"), [(1000, 64, 100), (997, 1000, 64), (431, 10, 8192)])
def test_an_epoch_holds_every_group_but_the_incomplete_batch(
    num_groups: int, shard_size: int, window: int, world_size: int
) -> None:
    batch_size = 3 * world_size
    num_batches = num_groups // batch_size
    epochs = []
    for epoch in range(3):
        ranks = [
            epoch_of(
                StreamedOrder(
                    num_groups,
                    shard_size,
                    batch_size=batch_size,
                    seed=1,
                    rank=rank,
                    world_size=world_size,
                    window=window,
                ),
                epoch,
            )
            for rank in range(world_size)
        ]
        assert {len(share) for share in ranks} == {3 * num_batches}
        together = np.concatenate(ranks)
        assert len(np.unique(together)) == len(together) == num_batches * batch_size > num_groups - batch_size
        assert together.min() >= 0 and together.max() < num_groups
        epochs.append(together)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(np.sort(epochs[0]), np.arange(num_groups)[: len(epochs[0])]) or world_size in (1, 7)


def test_windows_follow_the_order_of_the_shards() -> None:
    order = StreamedOrder(1000, 50, batch_size=20, seed=5, window=100)
    expected = shard_order(20, seed=5, epoch=1)
    for window in range(10):
        groups = np.concatenate([order.groups(50 + position) for position in range(5 * window, 5 * window + 5)])
        assert sorted(set((groups // 50).tolist())) == sorted(expected[2 * window : 2 * window + 2])
        assert order.shards_of(1, window) == expected[2 * window : 2 * window + 2]
        assert len(np.unique(np.diff(groups))) > 10  # mixed
    assert order.shards_of(1, 10) == []


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_shards_of_a_window_are_all_that_its_batches_touch(rank: int) -> None:
    order = StreamedOrder(995, 30, batch_size=21, seed=0, rank=rank, world_size=3, window=50)
    for position in range(995 // 21):
        window = order.window_of(position)
        allowed = {*order.shards_of(0, window), *order.shards_of(0, max(0, window - 1))}
        assert set((order.groups(position) // 30).tolist()) <= allowed
        assert order.first_position_of(window) <= position < order.first_position_of(window + 1)


def test_the_next_permutation_is_drawn_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def draw(num_groups: int, *, seed: int, epoch: int) -> np.ndarray:
        drawn.append(epoch)
        return draw_order(num_groups, seed=seed, epoch=epoch)

    monkeypatch.setattr("contrast.orders.draw_order", draw)
    order = ShuffledOrder(100, batch_size=10, seed=0)
    order.groups(4)
    assert drawn == [0]
    order.groups(5)
    ahead = order._drawn[1]
    assert np.array_equal(ahead.result(), draw_order(100, seed=0, epoch=1)) and sorted(drawn) == [0, 1]
    assert np.array_equal(order.groups(10), draw_order(100, seed=0, epoch=1)[:10]) and sorted(drawn) == [0, 1]


def test_what_goes_wrong_while_drawing_reaches_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(num_groups: int, *, seed: int, epoch: int) -> np.ndarray:
        raise MemoryError("no room")

    monkeypatch.setattr("contrast.orders.draw_order", fail)
    with pytest.raises(MemoryError, match="no room"):
        ShuffledOrder(100, batch_size=10, seed=0).groups(0)


def test_a_batch_that_does_not_fit_is_refused() -> None:
    for build in (ShuffledOrder, lambda num_groups, **settings: StreamedOrder(num_groups, 10, **settings)):
        with pytest.raises(ValueError, match="batch size 101 is larger than the 100 groups: use"):
            build(100, batch_size=101, seed=0)
        with pytest.raises(ValueError, match="does not divide among 3 processes"):
            build(100, batch_size=10, seed=0, world_size=3)
