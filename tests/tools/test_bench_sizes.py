"""The benchmark of sizes: one dataset and its prefixes, every shard a file of its own, figures that fit together."""

from __future__ import annotations

import json
from pathlib import Path

import bench_sizes
import numpy as np
import opening
import pytest
from click.testing import CliRunner

from shards.dataset import GroupDataset
from shards.markers import tar_path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_sizes, "GROUPS_PER_SHARD", 8)


def test_repeated_shards_hold_the_same_groups_in_files_of_their_own(tmp_path: Path) -> None:
    bench_sizes.write_repeated(tmp_path / "d", num_groups=20, size=16)
    dataset = GroupDataset(tmp_path / "d")
    assert len(dataset) == 24
    assert np.array_equal(dataset.images(3), dataset.images(19))
    assert len({tar_path(tmp_path / "d", index).stat().st_ino for index in range(3)}) == 3
    bench_sizes.write_dataset(tmp_path / "linked", num_groups=8, size=16, shard_size=8)
    opening.repeat_shard(tmp_path / "linked", 3)
    assert len({tar_path(tmp_path / "linked", index).stat().st_ino for index in range(3)}) == 1


def test_figures_fit_together() -> None:
    options = ["--sizes", "24,8", "--size", "16", "--batch-size", "4", "--steps", "2", "--repeats", "1", "--json"]
    run = CliRunner().invoke(bench_sizes.main, [*options, "--device", "cpu", "--threads", "1"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    rates = result["views_per_second"]
    assert list(rates) == ["8", "24"]
    assert result["slowest_over_fastest_step"] == pytest.approx(min(rates.values()) / max(rates.values()))
    assert all(rate > 0 for rate in result["groups_per_second"].values())
    assert all(0 <= share <= 1 for share in result["data_wait_share"].values())


def test_a_size_that_is_no_number_is_one_clear_line() -> None:
    run = CliRunner().invoke(bench_sizes.main, ["--sizes", "10k,many"])
    assert run.exit_code == 2 and "many" in run.output and "Traceback" not in run.output
