"""Which images are pulled together, real images among them, and the control that must fail."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch

import contrast
import contrast.assembly
from contrast.assembly import assemble_batches, find_facts
from contrast.augment import augment, draw_augmentation, keep_pixels
from contrast.batches import Batches, GroupBatch
from contrast.config import TrainConfig
from contrast.distributed import Place
from contrast.losses import multi_positive_loss
from contrast.mixing import MixedBatches, count_real, match_classes, own_rows, parse_mix, seed_of_real
from contrast.network import TrainedNetwork
from contrast.objectives import GroupFacts, build_objective
from contrast.orders import draw_order
from contrast.positives import PickedBatches, draw_members
from contrast.readers import open_batches
from contrast.run_folder import read_run
from contrast.run_options import RunOptions
from contrast.runlog import read_metrics
from contrast.training import train_encoder
from shards.dataset import GroupDataset

QUIET = RunOptions(device="cpu", quiet=True)


class Numbered:
    """Batches whose pixels say group and member: 10 * group + member."""

    def __init__(self, *, batch_size: int, num_images: int, first: int = 0) -> None:
        self.steps_per_epoch = 4
        self._batch_size, self._num_images, self._first = batch_size, num_images, first

    def steps(self, first: int, last: int) -> Generator[GroupBatch, None, None]:
        for step in range(first, last):
            indices = np.arange(self._batch_size) + self._first
            numbers = (10 * indices[:, None] + np.arange(self._num_images)).astype(np.uint8)
            shape = (self._batch_size, self._num_images, 2, 2, 3)
            images = np.broadcast_to(numbers[..., None, None, None], shape)
            yield GroupBatch(step=step, indices=indices, labels=indices % 3, images=images, latents=numbers[..., None])


def picked(positives: str, *, held: int, num_images: int, step: int = 0) -> np.ndarray:
    batches = PickedBatches(
        Numbered(batch_size=4, num_images=held), positives=positives, num_images=num_images, batch_size=4, seed=0
    )
    (batch,) = batches.steps(step, step + 1)
    assert np.array_equal(batch.images[..., 0, 0, 0], batch.latents[..., 0])  # every image keeps its own latent
    return batch.images[..., 0, 0, 0]


def test_every_kind_of_positives() -> None:
    assert picked("both", held=2, num_images=2).tolist() == [[0, 1], [10, 11], [20, 21], [30, 31]]
    assert picked("tz", held=2, num_images=2).tolist() == [[0, 1], [10, 11], [20, 21], [30, 31]]
    assert picked("tx", held=2, num_images=2).tolist() == [[0, 0], [10, 10], [20, 20], [30, 30]]
    assert picked("tx", held=3, num_images=3).tolist() == [[0] * 3, [10] * 3, [20] * 3, [30] * 3]
    assert picked("shuffled", held=2, num_images=2).tolist() == [[0, 11], [10, 21], [20, 31], [30, 1]]
    assert picked("shuffled", held=3, num_images=3).tolist() == [[0, 11, 22], [10, 21, 32], [20, 31, 2], [30, 1, 12]]
    with pytest.raises(ValueError, match="5 images are pulled together, so every process needs as many groups"):
        picked("shuffled", held=5, num_images=5)
    with pytest.raises(ValueError, match="3 images are pulled together, so every process needs as many groups"):
        of_two = {"batch_size": 4, "seed": 0, "world_size": 2}
        PickedBatches(Numbered(batch_size=2, num_images=3), positives="shuffled", num_images=3, **of_two)
    assert picked("both", held=1, num_images=2).tolist()[1] == [10, 10]  # no views: the anchor alone


def test_of_several_views_a_step_draws_one_for_every_group() -> None:
    draws = np.stack([draw_members(64, held=4, num_images=2, seed=0, step=step) for step in range(50)])
    assert (draws[..., 0] == 0).all()
    counts = np.bincount(draws[..., 1].ravel(), minlength=4)
    assert counts[0] == 0 and (np.abs(counts[1:] - 3200 / 3) < 150).all()
    assert np.array_equal(draws[7], draw_members(64, held=4, num_images=2, seed=0, step=7))
    assert not np.array_equal(draws[7], draw_members(64, held=4, num_images=2, seed=1, step=7))
    shown = picked("both", held=4, num_images=2)
    assert (shown[:, 0] == [0, 10, 20, 30]).all() and (shown[:, 1] // 10 == [0, 1, 2, 3]).all()


def test_ranks_together_pick_what_one_process_picks() -> None:
    whole = picked("both", held=4, num_images=2, step=3)
    parts = []
    for rank in range(2):
        batches = PickedBatches(
            Numbered(batch_size=2, num_images=4, first=2 * rank),
            positives="both", num_images=2, batch_size=4, seed=0, rank=rank, world_size=2,
        )  # fmt: skip
        (batch,) = batches.steps(3, 4)
        parts.append(batch.images[..., 0, 0, 0])
    assert np.array_equal(np.concatenate(parts), whole)


def test_tz_leaves_the_pixels_as_they_are() -> None:
    pixels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    draws = draw_augmentation(TrainConfig(steps=1).augment, count=4, seed=0, step=0)
    assert torch.equal(keep_pixels(pixels, draws), pixels.permute(0, 3, 1, 2) / 255)
    assert not torch.allclose(augment(pixels, draws), keep_pixels(pixels, draws), atol=0.01)


# ---------------------------------------------------------------------------------------------------------------------
# The control


def held_out_loss(run: Path, held_out: Path) -> float:
    """Loss of the true pairs of groups that the run has not seen, not augmented."""
    config = read_run(run).config
    dataset = GroupDataset(held_out)
    objective = build_objective(config, GroupFacts(num_images=2))
    network = TrainedNetwork(config, image_size=16, objective=objective)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    network.encoder.load_state_dict(state["encoder"])
    network.head.load_state_dict(state["head"])
    images = torch.from_numpy(dataset.batch(range(48))[0]).flatten(0, 1).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        return multi_positive_loss(
            network.eval()(images), torch.arange(48).repeat_interleave(2), temperature=config.temperature
        ).item()


@pytest.mark.parametrize(("objective", "num_views"), [("simclr", 1), ("multi-positive", 4)])
def test_shuffled_pairs_teach_nothing(
    make_groups: Callable[..., Path], tmp_path: Path, objective: str, num_views: int
) -> None:
    shards = make_groups(num_groups=256, shard_size=256, num_views=num_views)
    held_out = make_groups(num_groups=48, seed=77)
    chance = np.log(95)
    losses = {}
    for positives in ("both", "shuffled"):
        config = TrainConfig(
            steps=120, batch_size=32, head_hidden_dim=64, head_dim=32, temperature=0.5, positives=positives,
            objective=objective,
        )  # fmt: skip
        summary = train_encoder(config, shards=shards, out=tmp_path / positives, options=QUIET)
        losses[positives] = held_out_loss(tmp_path / positives, held_out)
        if positives == "shuffled":
            assert summary.loss > summary.chance_loss - 0.1
    assert losses["both"] < chance - 0.15
    assert losses["shuffled"] > chance - 0.05


# ---------------------------------------------------------------------------------------------------------------------
# Real images


def shuffled(dataset: GroupDataset, *, batch_size: int, **place: int) -> Batches:
    return open_batches(dataset, reader="tar", batch_size=batch_size, seed=0, **place)


def test_a_share_of_every_batch_is_real(groups: Path, make_groups: Callable[..., Path]) -> None:
    real = GroupDataset(make_groups(seed=3, num_groups=20))
    generated = GroupDataset(groups)
    mixed = MixedBatches(
        shuffled(generated, batch_size=6), shuffled(real, batch_size=2),
        num_images=2, first_index=len(generated), classes=match_classes(generated.class_names, real.class_names),
    )  # fmt: skip
    assert mixed.steps_per_epoch == 16
    batches = list(mixed.steps(0, 40))
    for batch in batches:
        assert (batch.indices < 96).tolist() == [True] * 6 + [False] * 2
        for index, label, images in zip(batch.indices[6:] - 96, batch.labels[6:], batch.images[6:], strict=True):
            group = real[index]
            assert label == group.label
            assert np.array_equal(images, np.stack([group.images[0]] * 2))
    resumed = list(mixed.steps(25, 40))
    for one, other in zip(batches[25:], resumed, strict=True):
        assert np.array_equal(one.images, other.images) and np.array_equal(one.indices, other.indices)
    assert len({index for batch in batches for index in batch.indices[6:].tolist()}) == 20  # all of them get their turn


def test_real_images_meet_other_generated_groups_in_every_epoch(
    groups: Path, make_groups: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []
    opened = contrast.assembly.open_batches
    monkeypatch.setattr(
        "contrast.assembly.open_batches", lambda *a, **named: (seeds.append(named["seed"]), opened(*a, **named))[1]
    )
    config = TrainConfig(steps=1, batch_size=16, mix_share=0.25, seed=3)
    real = make_groups(seed=3, num_groups=20)
    train_encoder(config, shards=groups, mix=real, out=tmp_path / "run", options=QUIET)
    assert seeds == [3, seed_of_real(3)]
    assert seed_of_real(0) != seed_of_real(1)
    generated, real = (
        [draw_order(64, seed=seed, epoch=epoch).argsort() // 16 for epoch in range(20)] for seed in (0, seed_of_real(0))
    )
    together = np.mean([mine == theirs for mine, theirs in zip(generated, real, strict=True)])
    assert abs(together - 0.25) < 0.05, "group i and image i are in one of four batches by chance"


def test_classes_meet_by_name() -> None:
    assert match_classes({3: "cat", 5: "dog"}, {0: "dog", 1: "cat"}) == {0: 5, 1: 3}
    cranes = {134: "crane", 517: "crane", 1: "goldfish"}
    assert match_classes(cranes, dict(cranes)) == {134: 134, 517: 517, 1: 1}
    one = {0: "crane", 1: "goldfish"}
    for generated, real in ((cranes, one), (one, cranes)):
        with pytest.raises(ValueError, match="two classes are called 'crane', and classes are matched by name"):
            match_classes(generated, real)
    with pytest.raises(ValueError, match="have no class 'frog'; use an objective without labels"):
        match_classes({3: "cat"}, {0: "frog"})
    with pytest.raises(ValueError, match="the real images have no classes; use an objective without labels"):
        match_classes({3: "cat"}, {})


def test_rows_of_the_ranks_are_the_batch() -> None:
    rows = [own_rows(6, 2, num_images=2, rank=rank, world_size=2) for rank in range(2)]
    assert rows[0].tolist() == [0, 1, 2, 3, 4, 5, 12, 13]
    assert sorted(np.concatenate(rows).tolist()) == list(range(16))


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_part_of_a_mixed_batch_has_the_same_share_of_real_images(
    groups: Path, make_groups: Callable[..., Path], world_size: int
) -> None:
    real, generated = GroupDataset(make_groups(seed=3, num_groups=20)), GroupDataset(groups)

    def batch(rank: int, world_size: int, num_parts: int) -> GroupBatch:
        place = {"rank": rank, "world_size": world_size}
        sources = shuffled(generated, batch_size=12, **place), shuffled(real, batch_size=4, **place)
        return next(MixedBatches(*sources, num_images=2, first_index=96, num_parts=num_parts).steps(0, 1))

    whole = batch(0, 1, 1)
    assert (whole.indices >= 96).tolist() == [False] * 12 + [True] * 4
    images = whole.images.reshape(-1, *whole.images.shape[2:])
    for rank in range(world_size):
        rows = own_rows(12, 4, num_images=2, rank=rank, world_size=world_size, num_parts=2)
        parts = batch(rank, world_size, 2).split(2)
        for part, part_rows in zip(parts, np.split(rows, 2), strict=True):
            assert (part.indices >= 96).sum() == 4 / world_size / 2
            assert np.array_equal(part.images.reshape(-1, *images.shape[1:]), images[part_rows])
            assert np.array_equal(part.indices, whole.indices[part_rows[::2] // 2])


def test_the_parts_of_a_run_s_batch_have_their_share_of_real_images(
    groups: Path, make_groups: Callable[..., Path]
) -> None:
    config = TrainConfig(steps=1, batch_size=16, mix_share=0.25, accumulate=2)
    dataset, real = GroupDataset(groups), GroupDataset(make_groups(seed=3, num_groups=20))
    objective = build_objective(config, find_facts(dataset, with_latents=False))
    place = Place(rank=0, world_size=1, device=torch.device("cpu"))
    batch = next(assemble_batches(config, objective, dataset, real, place, QUIET).steps(0, 1))
    assert [int((part.indices >= len(dataset)).sum()) for part in batch.split(2)] == [2, 2]


def test_real_images_have_the_label_of_the_generated_class_that_they_stand_for() -> None:
    generated, real = Numbered(batch_size=2, num_images=2), Numbered(batch_size=4, num_images=1)
    mixed = MixedBatches(generated, real, num_images=2, first_index=9, classes={0: 7, 1: 3, 2: 5})
    (batch,) = mixed.steps(0, 1)
    assert batch.labels.tolist() == [0, 1, 7, 3, 5, 7]


def test_what_mix_takes() -> None:
    assert parse_mix("real=data:sets/photos:0.25") == (Path("data:sets/photos"), 0.25)
    for text in (
        "photos:0.25",
        "real=photos",
        "real=photos:1",
        "real=photos:0",
        "real=:0.5",
        "fake=photos:0.5",
        "real",
    ):
        with pytest.raises(ValueError, match="write real=DIR:SHARE"):
            parse_mix(text)
    with pytest.raises(ValueError, match="real images are read from a folder on this machine"):
        parse_mix("real=s3://bucket/photos:0.25")
    assert (count_real(128, 0.25), count_real(128, 0.0), count_real(10, 0.25)) == (32, 0, 2)
    assert count_real(100, 0.29) == 29  # the product is just below
    with pytest.raises(ValueError, match=r"a share of 0\.01 of 10 groups is 0; use a larger --batch-size"):
        count_real(10, 0.01)
    for positives in ("tz", "shuffled"):
        with pytest.raises(ValueError, match=f"positives {positives}: real images have no positives but"):
            TrainConfig(steps=1, mix_share=0.5, positives=positives)


def test_a_mixed_run_remembers_what_it_was_mixed_with(
    groups: Path, make_groups: Callable[..., Path], tmp_path: Path
) -> None:
    real, other = make_groups(seed=3, num_groups=20), make_groups(seed=4, num_groups=20)
    options = {"shards": groups, "out": tmp_path / "run", "batch_size": 16, "device": "cpu", "quiet": True}
    summary = contrast.train(**options, mix=f"real={real}:0.25", epochs=1, objective="supcon")
    assert summary.steps == 96 // 12  # a pass over the generated groups
    assert read_metrics(tmp_path / "run")[-1]["groups"] == 8 * 16  # both kinds
    record = read_run(tmp_path / "run")
    assert record.trained_on.real.num_groups == 20 and record.config.mix_share == 0.25
    assert record.trained_on.real.recipe == GroupDataset(real).manifest.recipe
    with pytest.raises(ValueError, match=r"trained_on\.real\.recipe\.seed: 3 in the folder, 4 asked for"):
        contrast.train(**options, mix=f"real={other}:0.25", epochs=1, objective="supcon")
    with pytest.raises(ValueError, match=r"0\.9 of 96 groups is 86 real images, and .* holds 20: use a smaller"):
        contrast.train(**{**options, "batch_size": 96}, mix=f"real={real}:0.9", steps=1)
    with pytest.raises(ValueError, match="no folder"):
        contrast.train(**options, mix="real=nowhere:0.25", epochs=1, objective="supcon")
    with pytest.raises(ValueError, match="say where the real images are, --mix real=DIR:SHARE"):
        contrast.train(**options, mix_share=0.25, epochs=1, objective="supcon")
