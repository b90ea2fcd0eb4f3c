"""Rendering: prefixes, growth, resumption and single shards give the same bytes, and those are the promised pixels."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import synthgen
from shards.dataset import GroupDataset
from shards.folder import lock_dataset
from shards.manifest import ShardRecord, load_manifest
from shards.markers import read_marker, scan_markers
from shards.recipe import Recipe, RenderSettings
from shards.verification import verify
from shards.writer import ShardWriter
from synthgen.pipeline import STAGES, ShardRenderer, slowest_stage
from synthgen.plan import ShardPlan, draw_groups

CPU = torch.device("cpu")


def tar_digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("data/*.tar"))}


def test_a_dataset_is_what_its_recipe_says(render, tiny_weights: Path, tmp_path: Path) -> None:
    manifest = render(
        "250", tmp_path / "d", std=0.4, num_views=2, truncation=0.8, classes="1,4,7", seed=5, format="png"
    )
    assert manifest == load_manifest(tmp_path / "d")
    assert [shard.count for shard in manifest.shards] == [100, 100, 50]
    recipe = manifest.recipe
    assert recipe.source["generator"] == "biggan-deep-32" and recipe.source["truncation"] == 0.8
    assert (
        recipe.source["weights_sha256"]
        == hashlib.sha256((tiny_weights / "biggan-deep-32.safetensors").read_bytes()).hexdigest()
    )
    assert recipe.views == ({"policy": "gaussian", "std": 0.4},) * 2
    assert manifest.class_names == {1: "car", 4: "deer", 7: "horse"}

    # Every pixel from the drawn latents through the generator, with no pipeline between; png keeps them.
    dataset = GroupDataset(tmp_path / "d")
    generator = synthgen.load_generator(weights=tiny_weights, truncation=0.8, device="cpu", dtype="float32")
    draws = draw_groups(recipe, latent_dim=16, first=120, count=20)
    labels = torch.from_numpy(draws.labels)
    expected = [generator.render(torch.from_numpy(latents), labels).numpy() for latents in draws.latents]
    images, stored_labels = dataset.batch(range(120, 140))
    np.testing.assert_array_equal(images, np.stack(expected, axis=1))
    np.testing.assert_array_equal(stored_labels, draws.labels)
    group = dataset[130]
    assert group.class_name == {1: "car", 4: "deer", 7: "horse"}[group.label]
    assert list(group.views) == [{"policy": "gaussian", "std": 0.4}] * 2


def test_anchors_alone_are_those_of_a_dataset_with_views(render, tmp_path: Path) -> None:
    manifest = render(30, tmp_path / "alone", num_views=0, store_latents=True)
    render(30, tmp_path / "pairs", store_latents=True)
    assert (manifest.num_images, manifest.recipe.views) == (1, ()) and verify(tmp_path / "alone").ok
    alone, pairs = GroupDataset(tmp_path / "alone"), GroupDataset(tmp_path / "pairs")
    for index in (0, 17, 29):
        assert bytes(alone.read(index, "anchor.jpg")) == bytes(pairs.read(index, "anchor.jpg"))
        assert np.array_equal(alone.latents(index), pairs.latents(index)[:1])


def test_prefix_growth_and_single_shards_are_byte_identical(render, tmp_path: Path) -> None:
    whole = render(450, tmp_path / "whole")
    digests = tar_digests(tmp_path / "whole")

    render(200, tmp_path / "prefix")
    assert tar_digests(tmp_path / "prefix") == dict(list(digests.items())[:2])

    grown = tmp_path / "grown"
    render(130, grown)  # its second shard is cut short, and becomes longer
    first = (grown / "data" / "train-000000.tar").stat().st_mtime_ns
    assert render(450, grown) == whole
    assert tar_digests(grown) == digests
    assert (grown / "data" / "train-000000.tar").stat().st_mtime_ns == first, "a finished shard is left alone"

    # One shard alone, and one whose neighbours are there but not it.
    for name in ("train-000002.tar", "train-000002.done.json"):
        (grown / "data" / name).unlink()
    assert render(450, grown) == whole
    assert tar_digests(grown) == digests
    assert verify(grown).ok


def test_blocks_that_do_not_divide_the_shards_change_nothing(render, tmp_path: Path) -> None:
    """Shards of 33 and 50 at batch 20: the same group comes from the same forward pass."""
    render(100, tmp_path / "a", shard_size=33, format="png")
    render(100, tmp_path / "b", shard_size=50, format="png")
    images_a, labels_a = GroupDataset(tmp_path / "a").batch(range(100))
    images_b, labels_b = GroupDataset(tmp_path / "b").batch(range(100))
    np.testing.assert_array_equal(images_a, images_b)
    np.testing.assert_array_equal(labels_a, labels_b)


def test_classes_as_a_list_and_options_that_there_are_not(render, tmp_path: Path) -> None:
    manifest = render(20, tmp_path / "d", classes=[3, 0])
    assert manifest.recipe.classes == (0, 3)
    assert render(20, tmp_path / "d", classes="0,3") == manifest
    with pytest.raises(ValueError, match="render has no option 'colour': choose from generator, weights, views, std"):
        render(20, tmp_path / "e", colour="red")
    assert not (tmp_path / "e").exists()


def test_stored_latents_are_the_drawn_ones(render, tmp_path: Path) -> None:
    manifest = render(40, tmp_path / "d", store_latents=True, views="independent")
    draws = draw_groups(manifest.recipe, latent_dim=16, first=0, count=40)
    dataset = GroupDataset(tmp_path / "d")
    for index in (0, 17, 39):
        stored = np.load(io.BytesIO(bytes(dataset.read(index, "latents.npy"))))
        assert stored.dtype == np.float32
        np.testing.assert_array_equal(stored, draws.latents[:, index])


def test_another_size_codec_and_quality(render, tmp_path: Path) -> None:
    manifest = render(20, tmp_path / "d", size=48, quality=80)
    assert manifest.recipe.image == {"size": 48, "format": "jpg", "quality": 80, "subsampling": "444"}
    assert GroupDataset(tmp_path / "d").images(3).shape == (2, 48, 48, 3)


def test_markers_tell_how_a_shard_was_made(render, tmp_path: Path) -> None:
    render(100, tmp_path / "d")
    marker = read_marker(tmp_path / "d", 0)
    assert marker is not None
    assert set(marker.stages) == set(STAGES) and all(busy > 0 for busy in marker.stages.values())
    assert 0 < marker.stages["write"] < marker.seconds
    assert marker.environment["torch"] == torch.__version__ and marker.environment["device"] == "cpu"


def test_the_slowest_stage_is_named() -> None:
    assert slowest_stage({"draw": 0.01, "generate": 0.95, "encode": 0.3}) == "generate 95%"


class Stripes:
    """An unconditional generator of eight lines: its pixels are its latents."""

    name, weights_sha256, image_size, latent_dim, num_classes = "stripes", "0" * 64, 8, 8, 0
    class_names: tuple[str, ...] = ()
    config_sha256 = None

    def __init__(self, fail_at_pass: int | None = None, spoil_with: float | None = None) -> None:
        self.passes = itertools.count(1)  # counts one by one in several threads, too
        self.fail_at_pass, self.spoil_with = fail_at_pass, spoil_with

    def sample(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert not labels.any() and len(latents) == 20, "every pass has the fixed batch"
        number = next(self.passes)
        images = (latents / 2).clamp(-1, 1)[:, None, None, :].repeat(1, 3, 8, 1)
        if number == self.fail_at_pass:
            if self.spoil_with is None:
                raise torch.OutOfMemoryError
            images[7, 1, 2, 3] = self.spoil_with
        return images

    def render(self, latents: torch.Tensor, labels: torch.Tensor, *, size: int | None = None) -> torch.Tensor:
        raise AssertionError("the pipeline looks at the images before they are pixels")


def stripes_renderer(folder: Path, generator: Stripes) -> ShardRenderer:
    recipe = Recipe(
        source={"generator": "stripes", "weights_sha256": "0" * 64, "truncation": 1.0},
        classes=(),
        views=({"policy": "gaussian", "std": 0.1},),
        seed=0,
        image={"size": 8, "format": "png"},
    )
    render = RenderSettings(batch_size=20, dtype="float32")
    return ShardRenderer(directory=folder, recipe=recipe, render=render, generator=generator, device=CPU)


def test_an_unconditional_generator_renders_unlabelled_groups(tmp_path: Path) -> None:
    counts: list[int] = []
    renderer = stripes_renderer(tmp_path, Stripes())
    renderer.run([ShardPlan(index=1, first=50, count=50)], on_groups=counts.append)
    assert sum(counts) == 50
    marker = read_marker(tmp_path, 1)
    assert marker is not None and marker.count == 50 and marker.class_names == {}
    assert all(share >= 0 for share in renderer.busy_shares(1.0).values())


@pytest.mark.parametrize("fail_at_pass", [1, 9, 14])
def test_out_of_memory_says_what_to_do_and_leaves_whole_shards(tmp_path: Path, fail_at_pass: int) -> None:
    renderer = stripes_renderer(tmp_path, Stripes(fail_at_pass))
    plans = [ShardPlan(index=i, first=60 * i, count=60) for i in range(3)]
    with lock_dataset(tmp_path), pytest.raises(ValueError, match=r"out of memory at batch size 20: .* --batch-size"):
        renderer.run(plans)
    done = [i for i in range(3) if read_marker(tmp_path, i) is not None]
    assert len(done) <= (fail_at_pass - 1) // 6
    assert {path.name for path in tmp_path.glob("data/*.tar")} == {f"train-{i:06d}.tar" for i in done}
    assert not list(tmp_path.glob("data/.*")), "no temporary file remains"


def test_a_slow_disk_keeps_a_shard_waiting_and_not_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first shard appears only when the second has been written, and the order of the groups' count stays."""
    second_is_written = threading.Event()
    publish = ShardWriter.publish

    def publish_late(writer: ShardWriter, **named: Any) -> ShardRecord:
        if writer._index == 1:
            second_is_written.set()
        else:
            assert second_is_written.wait(timeout=60)
        return publish(writer, **named)

    monkeypatch.setattr(ShardWriter, "publish", publish_late)
    counts: list[int] = []
    renderer = stripes_renderer(tmp_path, Stripes())
    renderer.run([ShardPlan(index=i, first=20 * i, count=20) for i in range(2)], on_groups=counts.append)
    assert counts == [20, 20] and set(scan_markers(tmp_path)) == {0, 1}
    assert renderer.busy_shares(1.0)["publish"] > 0


def test_a_shard_that_cannot_be_published_ends_the_render_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = ShardWriter.publish

    def publish_one(writer: ShardWriter, **named: Any) -> ShardRecord:
        if writer._index > 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return publish(writer, **named)

    monkeypatch.setattr(ShardWriter, "publish", publish_one)
    counts: list[int] = []
    renderer = stripes_renderer(tmp_path, Stripes())
    with pytest.raises(OSError, match="No space left"):
        renderer.run([ShardPlan(index=i, first=60 * i, count=60) for i in range(5)], on_groups=counts.append)
    assert sum(counts) == 60 + 40, "groups of a shard count once they are written, its last ones once it is there"
    assert set(scan_markers(tmp_path)) == {0} and not list(tmp_path.glob("data/.*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_no_numbers_are_not_stored(tmp_path: Path, value: float) -> None:
    renderer = stripes_renderer(tmp_path, Stripes(fail_at_pass=9, spoil_with=value))
    plans = [ShardPlan(index=i, first=60 * i, count=60) for i in range(3)]
    with (
        lock_dataset(tmp_path),
        pytest.raises(ValueError, match=r"stripes gave NaN or infinity in the images of groups \d+ to \d+: check"),
    ):
        renderer.run(plans)
    assert read_marker(tmp_path, 1) is None, "the ninth pass is of its groups"
    assert read_marker(tmp_path, 2) is None, "it comes after the spoilt one"
    assert not list(tmp_path.glob("data/.*")), "no temporary file remains"
