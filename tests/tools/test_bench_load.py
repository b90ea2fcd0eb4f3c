"""The benchmark of reading: every reader gives the same groups, and what it prints fits together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import bench_load
import loaders
import numpy as np
import opening
import pytest
from click.testing import CliRunner

from shards.dataset import GroupDataset

# webdataset leaves its files to the garbage collector, and imports torch, whose code uses what newer Pythons deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
]
OTHERS = ("webdataset", "webdataset_simplejpeg", "imagefolder", "decode", "decode_on_grid")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen groups in four shards."""
    directory = tmp_path_factory.mktemp("bench") / "dataset"
    bench_load.write_dataset(directory, num_groups=16, size=24)
    return directory


@pytest.fixture
def no_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_load, "has_ffcv", lambda: False)


@pytest.mark.usefixtures("no_ffcv")
def test_figures_are_positive_and_fit_together(dataset: Path) -> None:
    options = ["--shards", str(dataset), "--batch-size", "5", "--workers", "1,0", "--repeats", "1", "--json"]
    run = CliRunner().invoke(bench_load.main, options)
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    table = result["groups_per_second"]
    assert set(table) == set(loaders.LOADERS)
    assert table["ffcv_jpg"] is None and result["tar_over_ffcv_jpg"] is None
    assert result["notes"]["ffcv_jpg"] == "not installed"
    best = {}
    for name in ("tar", "stream", *OTHERS):
        assert set(table[name]["warm"]) == {"0", "1"}
        rates = [*table[name]["warm"].values(), *table[name]["cold"].values()]
        assert all(math.isfinite(rate) and rate > 0 for rate in rates), (name, rates)
        best[name] = max(table[name]["warm"].values())
    for name in OTHERS:
        assert result[f"tar_over_{name}"] == pytest.approx(best["tar"] / best[name])
    assert (result["groups"], result["shards"], result["size"], result["workers"]) == (16, 4, 24, [0, 1])


@pytest.mark.usefixtures("no_ffcv")
def test_a_dataset_of_its_own_and_a_table() -> None:
    run = CliRunner().invoke(bench_load.main, ["--groups", "9", "--size", "16", "--workers", "0", "--repeats", "1"])
    assert run.exit_code == 0, run.output
    assert "9 groups of 2 images, 16 px, in 3 shards" in run.stdout
    assert all(name in run.stdout for name in loaders.LOADERS)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("name", ["tar", "webdataset_simplejpeg", "decode", "decode_on_grid"])
def test_readers_in_index_order_give_the_very_pixels(
    dataset: Path, tmp_path: Path, name: str, num_workers: int
) -> None:
    """A dataset's prefix is read in whole shards, its last batch shorter."""
    task = loaders.LoadTask.of(dataset, num_groups=10, batch_size=5, scratch=tmp_path)
    assert (task.num_groups, task.num_shards) == (12, 3)
    epoch = loaders.LOADERS[name](task, num_workers)
    expected = GroupDataset(dataset).batch(range(12))[0]
    for _ in range(2):
        batches = [np.asarray(batch) for batch in epoch()]
        assert [len(batch) for batch in batches] == [5, 5, 2]
        np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_other_images_are_noticed(dataset: Path, tmp_path: Path) -> None:
    task = loaders.LoadTask.of(dataset, num_groups=16, batch_size=4, scratch=tmp_path)
    levels = bench_load.check_epoch("tar", loaders.open_tar(task, 0), task, None)

    def brighter() -> Iterator[np.ndarray]:
        return (np.minimum(images, 250) + 5 for images in loaders.open_tar(task, 0)())

    with pytest.raises(AssertionError, match="other images"):
        bench_load.check_epoch("brighter", brighter, task, levels)


@pytest.mark.filterwarnings("ignore")  # FFCV's own, and numba's
@pytest.mark.skipif(not loaders.has_ffcv(), reason="FFCV is not installed")
def test_ffcv_reads_what_it_was_given(dataset: Path, tmp_path: Path) -> None:
    task = loaders.LoadTask.of(dataset, num_groups=16, batch_size=5, scratch=tmp_path)
    loaders.write_betons(task, quality=95)
    levels = bench_load.check_epoch("tar", loaders.open_tar(task, 0), task, None)
    for kind in ("jpg", "raw", "recompressed"):
        bench_load.check_epoch(kind, loaders.open_ffcv(task, 1, kind=kind), task, levels)


def test_opening_touches_every_shard(tmp_path: Path) -> None:
    def write_shard(directory: Path) -> None:
        bench_load.write_dataset(directory, num_groups=6, size=8, shard_size=6)

    run = opening.measure_opening(tmp_path, num_shards=300, write_shard=write_shard, repeats=1)
    assert (run["shards"], run["groups"]) == (300, 1800)
    assert 0 < run["manifest_seconds"] <= run["seconds"]
    assert run["peak_memory_bytes"] < 200e6
    dataset = GroupDataset(tmp_path / "shards-300")
    assert np.array_equal(dataset.images(1799), dataset.images(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bogus"], "No such option"),
        (["--workers", "two"], "give whole numbers"),
        (["--shards", "nowhere"], "no folder nowhere"),
        (["--shards", "nowhere", "--size", "32"], "--size is for a dataset of its own"),
        (["--groups", "4", "--size", "8", "--workers", "0,5"], "give at most that many workers"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str) -> None:
    run = CliRunner().invoke(bench_load.main, options)
    assert run.exit_code == 2
    lines = [line for line in run.stderr.splitlines() if not line.startswith("writing: ")]
    assert len(lines) == 1 and message in lines[0] and run.stdout == ""
