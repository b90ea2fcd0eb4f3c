"""One contract, three readers: the same groups and pixels, whatever the ranks, the workers and the interruptions."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shards
from contrast.batches import GroupBatches
from contrast.config import TrainConfig
from contrast.readers import READERS, check_order, choose_reader, open_batches
from contrast.run_options import RunOptions
from contrast.training import train_encoder
from shards.dataset import GroupDataset

needs_ffcv = pytest.mark.skipif(find_spec("ffcv") is None, reason="FFCV is not installed: make setup-ffcv")
# FFCV's own imports, and numba's compiler.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore:.*numba.*")]
every_reader = pytest.mark.parametrize(
    "reader", [pytest.param(reader, marks=needs_ffcv if reader == "ffcv" else ()) for reader in READERS]
)
JPG = {"format": "jpg", "quality": 95, "subsampling": "420"}


@pytest.fixture(scope="module")
def jpg_groups(make_groups: Callable[..., Path]) -> Path:
    """96 groups of JPEG images, and FFCV's file of them where FFCV is installed."""
    directory = make_groups(image=JPG, shard_size=20)
    if find_spec("ffcv") is not None:
        shards.to_ffcv(directory, out=directory / "groups.beton", quiet=True)
    return directory


def indices_of(batches: Any, steps: range) -> np.ndarray:
    return np.concatenate([batches.order.groups(step) for step in steps])


@every_reader
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("n", [None, 50])
def test_every_rank_has_as_many_batches_and_no_group_comes_twice(
    jpg_groups: Path, reader: str, world_size: int, n: int | None
) -> None:
    dataset = GroupDataset(jpg_groups, n=n)
    epochs = []
    for num_workers in (1, 2):
        ranks = [
            open_batches(
                dataset,
                reader=reader,
                batch_size=12,
                seed=0,
                rank=rank,
                world_size=world_size,
                num_workers=num_workers,
            )
            for rank in range(world_size)
        ]
        assert {batches.steps_per_epoch for batches in ranks} == {len(dataset) // 12}
        for epoch in range(2):
            steps = range(epoch * ranks[0].steps_per_epoch, (epoch + 1) * ranks[0].steps_per_epoch)
            shares = [indices_of(batches, steps) for batches in ranks]
            assert {len(share) for share in shares} == {len(steps) * 12 // world_size}
            together = np.concatenate(shares)
            assert len(np.unique(together)) == len(together)
            assert 0 <= together.min() <= together.max() < len(dataset)
            if len(dataset) % 12 == 0:
                assert np.array_equal(np.sort(together), np.arange(len(dataset)))
            epochs.append(together)
    assert np.array_equal(epochs[0], epochs[2]) and np.array_equal(epochs[1], epochs[3])  # workers do not matter
    assert not np.array_equal(epochs[0], epochs[1])


@every_reader
@pytest.mark.parametrize(("rank", "num_workers"), [(0, 1), (1, 2)])
def test_batches_are_those_of_their_steps_and_pixels_those_of_the_tars(
    jpg_groups: Path, reader: str, rank: int, num_workers: int
) -> None:
    dataset = GroupDataset(jpg_groups, n=90)
    options: dict[str, Any] = {"batch_size": 20, "seed": 2, "rank": rank, "world_size": 2, "num_workers": num_workers}
    batches = open_batches(dataset, reader=reader, memory_bytes=0, **options)
    threads = torch.get_num_threads()
    whole = list(batches.steps(0, 10))  # beyond two epochs of four steps
    assert torch.get_num_threads() == threads
    assert [batch.step for batch in whole] == list(range(10))
    for batch in whole:
        images, labels = dataset.batch(batch.indices)
        assert np.array_equal(batch.images, images) and batch.images.dtype == np.uint8
        assert np.array_equal(batch.labels, labels) and batch.labels.dtype == np.int64
    for one, other in zip(whole[5:9], batches.steps(5, 9), strict=True):  # resumed in mid-epoch
        assert one.step == other.step and np.array_equal(one.indices, other.indices)
        assert np.array_equal(one.images, other.images)
    left = batches.steps(0, 10)
    next(left)
    left.close()  # an interruption leaves no thread or file behind that would be an error here


@needs_ffcv
def test_ffcv_gives_the_batches_of_the_tar_reader(jpg_groups: Path) -> None:
    dataset = GroupDataset(jpg_groups)
    for step in range(20):
        tar, ffcv = (open_batches(dataset, reader=reader, batch_size=7, seed=4) for reader in ("tar", "ffcv"))
        assert np.array_equal(tar.order.groups(step), ffcv.order.groups(step))  # type: ignore[attr-defined]


@needs_ffcv
@pytest.mark.parametrize("image", [{"format": "png"}, {"format": "jpg", "quality": 90, "subsampling": "444"}])
def test_ffcv_is_exact_for_pixels_and_full_colour(make_groups: Callable[..., Path], image: dict[str, Any]) -> None:
    directory = make_groups(num_groups=12, image=image)
    record = shards.to_ffcv(directory, out=directory / "groups.beton", quiet=True)
    assert record.mode == ("raw" if image["format"] == "png" else "jpg")
    dataset = GroupDataset(directory)
    for batch in open_batches(dataset, reader="ffcv", batch_size=6, seed=0, num_workers=1).steps(0, 2):
        assert np.array_equal(batch.images, dataset.batch(batch.indices)[0])


@needs_ffcv
def test_an_image_that_ffcv_cannot_decode_is_damage(make_groups: Callable[..., Path]) -> None:
    directory = make_groups(num_groups=12, image=JPG)
    beton = directory / "groups.beton"
    shards.to_ffcv(directory, out=beton, quiet=True)
    batches = open_batches(GroupDataset(directory), reader="ffcv", batch_size=6, seed=0, num_workers=1)
    data = bytearray(beton.read_bytes())  # after its check, which of large files sees a part
    start = data.index(b"\xff\xd8\xff")
    data[start : start + 2] = b"\0\0"
    beton.write_bytes(data)
    with pytest.raises(shards.DamageError, match=r"groups\.beton holds an image that does not decode"):
        list(batches.steps(0, 2))


@needs_ffcv
def test_ffcv_refuses_files_of_other_groups(jpg_groups: Path, make_groups: Callable[..., Path]) -> None:
    def open_beton(directory: Path, beton: Path | None = None) -> None:
        open_batches(GroupDataset(directory), reader="ffcv", batch_size=6, seed=0, beton=beton)

    other = make_groups(num_groups=12, seed=1, image=JPG)
    with pytest.raises(ValueError, match="is of another dataset: recipe id"):
        open_beton(other, jpg_groups / "groups.beton")
    with pytest.raises(ValueError, match=r"no file .*groups.beton: write it with shards to-ffcv DIR --out"):
        open_beton(other)
    shards.to_ffcv(jpg_groups, out=other / "small.beton", n=30, quiet=True)
    with pytest.raises(ValueError, match=r"holds 30 groups of the 96 asked for: .* or give --n 30"):
        open_beton(jpg_groups, other / "small.beton")


def test_the_order_belongs_to_the_run_and_the_reader_does_not(jpg_groups: Path, tmp_path: Path) -> None:
    assert TrainConfig(steps=1).order == "shuffled"
    check_order("shuffled", "ffcv")
    config = TrainConfig(steps=2, batch_size=16, head_hidden_dim=32, head_dim=16)
    with pytest.raises(
        ValueError, match="webdataset reader does not give the shuffled order: use --reader tar or ffcv"
    ):
        train_encoder(config, shards=jpg_groups, out=tmp_path / "run", options=RunOptions(reader="webdataset"))
    with pytest.raises(ValueError, match="unknown order 'random': choose one of shuffled, streamed"):
        TrainConfig(steps=1, order="random")


@needs_ffcv
def test_a_run_may_be_begun_with_tar_and_ended_with_ffcv(jpg_groups: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=4, batch_size=16, head_hidden_dim=32, head_dim=16)
    losses = [
        train_encoder(
            config,
            shards=jpg_groups,
            out=tmp_path / reader,
            options=RunOptions(device="cpu", log_every=1, quiet=True, reader=reader),
        ).loss
        for reader in ("tar", "ffcv")
    ]
    assert losses[0] == losses[1]
    weights = [
        torch.load(tmp_path / reader / "checkpoint.pt", weights_only=True)["encoder"] for reader in ("tar", "ffcv")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_readers_are_chosen_by_the_place() -> None:
    assert choose_reader(None, "datasets/demo") == "tar" and choose_reader(None, "s3://bucket/demo") == "webdataset"
    assert choose_reader("ffcv", "s3://bucket/demo") == "ffcv"
    with pytest.raises(ValueError, match="tar reader needs a folder on this machine"):
        choose_reader("tar", "s3://bucket/demo")
    with pytest.raises(ValueError, match="unknown reader 'zip': choose one of tar, webdataset, ffcv"):
        choose_reader("zip", "datasets/demo")


def test_streamed_batches_of_a_folder_keep_decoded_images(jpg_groups: Path) -> None:
    batches = open_batches(GroupDataset(jpg_groups), reader="webdataset", batch_size=32, seed=0)
    assert isinstance(batches, GroupBatches)
    for batch in batches.steps(0, 7):
        assert np.array_equal(batch.images, GroupDataset(jpg_groups).batch(batch.indices)[0])
