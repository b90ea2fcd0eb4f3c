"""Which groups a step sees: every one once an epoch, whatever the processes and interruptions."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest

from contrast.batches import GroupBatch, GroupBatches, GroupSource
from contrast.orders import ShuffledOrder, draw_order
from shards.dataset import GroupDataset


def shuffled(dataset: GroupSource, *, batch_size: int, seed: int = 0, **settings: int) -> GroupBatches:
    return GroupBatches(dataset, ShuffledOrder(len(dataset), batch_size=batch_size, seed=seed), **settings)


def test_order_is_a_permutation_pinned_across_versions() -> None:
    order = draw_order(1000, seed=3, epoch=2)
    assert np.array_equal(np.sort(order), np.arange(1000))
    digest = hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "d9992f14596757af"
    assert not np.array_equal(order, draw_order(1000, seed=3, epoch=3))
    assert not np.array_equal(order, draw_order(1000, seed=4, epoch=2))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_group_at_most_once_per_epoch_and_the_same_ones_for_any_number_of_processes(world_size: int) -> None:
    ranks = [ShuffledOrder(96, batch_size=20, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)]
    alone = ShuffledOrder(96, batch_size=20, seed=0)
    assert alone.steps_per_epoch == 4  # 96 // 20
    for step in range(9):
        assert np.array_equal(np.concatenate([order.groups(step) for order in ranks]), alone.groups(step))
    epochs = [np.concatenate([alone.groups(4 * epoch + i) for i in range(4)]) for epoch in range(2)]
    for epoch in epochs:
        assert len(np.unique(epoch)) == 80
    assert not np.array_equal(*epochs)


def test_going_on_in_mid_epoch_gives_the_same_batches(groups: Path) -> None:
    dataset = GroupDataset(groups)
    whole = list(shuffled(dataset, batch_size=20, seed=1).steps(0, 11))
    resumed = list(shuffled(dataset, batch_size=20, seed=1).steps(6, 11))
    assert [batch.step for batch in whole] == list(range(11))
    for one, other in zip(whole[6:], resumed, strict=True):
        assert one.step == other.step
        assert np.array_equal(one.indices, other.indices)
        assert np.array_equal(one.images, other.images)


def test_images_and_labels_are_those_of_the_dataset(groups: Path) -> None:
    dataset = GroupDataset(groups)
    for memory_bytes in (0, 10**9):
        batches = shuffled(dataset, batch_size=32, seed=0, memory_bytes=memory_bytes)
        for batch in batches.steps(0, 7):  # the third pass reads what the first has kept
            images, labels = dataset.batch(batch.indices)
            assert np.array_equal(batch.images, images)
            assert np.array_equal(batch.labels, labels)


def test_decoded_images_are_kept_where_they_fit(groups: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.dataset, self.num_decoded = GroupDataset(groups), 0
            self.num_images, self.image_size = self.dataset.num_images, self.dataset.image_size

        def __len__(self) -> int:
            return len(self.dataset)

        def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.num_decoded += len(indices)
            return self.dataset.batch(indices)

    kept, dropped = Counting(), Counting()
    for source, memory_bytes in ((kept, 10**9), (dropped, 1000)):
        batches = shuffled(source, batch_size=32, seed=0, num_workers=1, memory_bytes=memory_bytes)
        assert len(list(batches.steps(0, 9))) == 9
    assert kept.num_decoded == 96
    assert dropped.num_decoded == 9 * 32


def test_the_parts_of_a_batch_carry_their_own_latents() -> None:
    numbers = np.arange(4)
    images, latents = np.zeros((4, 1, 1, 1, 3), np.uint8), numbers.astype(np.float32)[:, None, None]
    batch = GroupBatch(step=0, indices=numbers, labels=numbers, images=images, latents=latents)
    assert [part.latents.ravel().tolist() for part in batch.split(2)] == [[0, 1], [2, 3]]


def test_a_prefix_holds_its_own_groups_alone(groups: Path) -> None:
    batches = shuffled(GroupDataset(groups, n=50), batch_size=25)
    seen = np.concatenate([batches.order.groups(step) for step in range(2)])
    assert np.array_equal(np.sort(seen), np.arange(50))


def test_damage_reaches_the_loop_that_waits_for_it(groups: Path) -> None:
    class Broken:
        num_images, image_size = 2, 16

        def __len__(self) -> int:
            return 96

        def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(shuffled(Broken(), batch_size=8).steps(0, 3))


def test_as_many_batches_are_decoded_at_once_as_there_are_workers(groups: Path) -> None:
    class Together:
        """Decodes only when six are at it."""

        num_images, image_size = 2, 16

        def __init__(self) -> None:
            self.barrier = threading.Barrier(6, timeout=20)

        def __len__(self) -> int:
            return 96

        def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.barrier.wait()
            return GroupDataset(groups).batch(indices)

    assert len(list(shuffled(Together(), batch_size=8, num_workers=6, memory_bytes=0).steps(0, 12))) == 12
