"""The measurement of scale: it renders a sound dataset, its figures fit together, and memory does not follow N."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import scale_render
import torch
from click.testing import CliRunner

import shards


def test_figures_fit_together_and_the_dataset_is_sound(tmp_path: Path) -> None:
    out = tmp_path / "d"
    options = [
        "--n",
        "400",
        "--shard-size",
        "50",
        "--batch-size",
        "25",
        "--num-views",
        "2",
        "--out",
        str(out),
        "--json",
    ]
    run = CliRunner().invoke(scale_render.main, options)
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert (result["groups"], result["images"], result["shards"]) == (400, 1200, 8)
    assert len(result["rates_of_tenths"]) == 10 and all(rate > 0 for rate in result["rates_of_tenths"])
    mean = 10 / sum(1 / rate for rate in result["rates_of_tenths"])
    assert result["groups_per_second"] == pytest.approx(mean, rel=0.2), "the tenths make up the run"
    assert result["memory"][-1][1] == 400 and result["memory_bytes_of_tenths"][-1] > 0
    assert result["folder_bytes"] > result["tar_bytes"] == sum(p.stat().st_size for p in out.glob("data/*.tar"))
    assert set(result["seconds"]) == {"render", "finish", "open", "first_batch", "labels", "survey", "verify"}
    assert all(math.isfinite(value) for value in result["seconds"].values())
    assert shards.verify(out).ok and len(shards.GroupDataset(out)) == 400
    again = CliRunner().invoke(scale_render.main, options)
    assert again.exit_code == 2 and "holds shards already" in again.stderr


def test_the_table_says_the_same_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = CliRunner().invoke(scale_render.main, ["--n", "100", "--shard-size", "20", "--batch-size", "10"])
    assert run.exit_code == 0, run.output
    for word in ("100 groups of 32 px in 5 shards", "groups/s", "peak", "manifest", "verify", "100 %"):
        assert word in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_clouds_are_images_that_follow_their_latents() -> None:
    clouds = scale_render.Clouds(image_size=32)
    latents = torch.randn(4, clouds.latent_dim, generator=torch.Generator().manual_seed(0))
    pixels = clouds.render(latents, torch.zeros(4, dtype=torch.int64))
    assert pixels.shape == (4, 32, 32, 3) and pixels.dtype == torch.uint8
    assert torch.equal(pixels[1:3], clouds.render(latents[1:3], torch.zeros(2, dtype=torch.int64)))
    assert len({bytes(image.numpy().tobytes()) for image in pixels}) == 4 and pixels.float().std() > 20


def test_the_watch_keeps_few_samples_and_every_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_render, "_MOST_SAMPLES", 8)
    watch = scale_render.Watch(total=1000)
    for _ in range(100):
        watch.advance(10)
        watch.look()
    assert len(watch.memory) <= 8 and watch.memory[-1][1] == 1000 and watch.memory[0][1] < 200
    assert len(watch.crossings) == 10 and watch.crossings == sorted(watch.crossings) and len(watch.rates()) == 10
    watch = scale_render.Watch(total=20)
    watch.advance(20)  # all tenths in one step
    assert len(watch.crossings) == 10


def test_memory_does_not_follow_the_number_of_shards(tmp_path: Path) -> None:
    """What Python holds after a run of forty times the shards is the same within a small sum."""
    import gc
    import tracemalloc

    def held_after(n: int, folder: Path) -> int:
        job = scale_render.make_job(folder, n=n, size=8, num_views=1, shard_size=5, batch_size=5)
        renderer = scale_render.ShardRenderer(
            directory=folder, recipe=job.recipe, render=job.render, generator=job.generator, device=job.device
        )
        plans = list(scale_render.survey_folder(job).missing)
        folder.mkdir()  # as taking its lock would
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            renderer.run(plans)
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()

    held_after(5, tmp_path / "warm")
    # numpy and torch keep some hundred small objects for the next call, 10 to 30 kB however long the run.
    few, many = held_after(50, tmp_path / "few"), held_after(2000, tmp_path / "many")
    assert many - few < 390 * 100, f"{few} bytes after 10 shards, {many} after 400"
