"""The dry run's measurement: under the load of a render, not of a single pass."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from synthgen.config import RenderConfig
from synthgen.disk_room import SHARD_BYTES
from synthgen.estimate import estimate_render
from synthgen.job import RenderJob, prepare_job, survey_folder

NUM_THREADS = 3


class Watched:
    """A generator that calls `meet` before every pass."""

    def __init__(self, generator: object, meet: Callable[[], object]) -> None:
        self._generator, self._meet = generator, meet

    def __getattr__(self, name: str) -> object:
        return getattr(self._generator, name)

    def render(self, latents: torch.Tensor, labels: torch.Tensor, *, size: int | None = None) -> torch.Tensor:
        self._meet()
        return self._generator.render(latents, labels, size=size)


@pytest.fixture
def job(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RenderJob:
    monkeypatch.setattr("synthgen.devices.count_forward_threads", lambda device: NUM_THREADS)
    return prepare_job(
        RenderConfig(n=40, out=tmp_path / "d", weights=tiny_weights, devices="cpu", dtype="float32", batch_size=4)
    )


def test_all_forward_threads_are_measured_at_once(job: RenderJob) -> None:
    """Every pass waits until all threads are in one."""
    barrier = threading.Barrier(NUM_THREADS, timeout=60)
    meetings: list[int] = []

    def meet() -> None:
        assert torch.get_num_threads() == 1
        meetings.append(barrier.wait())

    watched = replace(job, generator=Watched(job.generator, meet))
    estimate = estimate_render(watched, survey_folder(watched))
    assert len(meetings) == NUM_THREADS * 3, "one to be warm, then anchor and view"
    assert estimate.seconds > 0 and estimate.missing_groups == 40
    assert not job.directory.exists()


def test_shards_smaller_than_a_block_cost_a_block_each(job: RenderJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 groups in blocks of 4: 10 blocks, or 40 where every group is a shard of its own."""
    monkeypatch.setattr("synthgen.estimate._measure_block", lambda job, shard: (1000.0, 2.0))
    for shard_size, num_blocks, num_shards in ((40, 10, 1), (10, 12, 4), (1, 40, 40)):
        changed = replace(job, shard_size=shard_size)
        estimate = estimate_render(changed, survey_folder(changed))
        assert (estimate.seconds, estimate.num_shards) == (2.0 * num_blocks, num_shards)
        assert estimate.missing_bytes == 40_000 + num_shards * SHARD_BYTES


def test_a_dry_run_from_python_says_what_is_missing_and_writes_nothing(tiny_weights: Path, tmp_path: Path) -> None:
    import synthgen

    settings = {"weights": tiny_weights, "devices": "cpu", "dtype": "float32", "batch_size": 10, "shard_size": 20}
    estimate = synthgen.render(n="60", out=tmp_path / "d", **settings, dry_run=True)
    assert (estimate.num_groups, estimate.missing_groups, estimate.missing_shards) == (60, 60, 3)
    assert estimate.seconds > 0 and estimate.missing_bytes > 0
    assert not (tmp_path / "d").exists()
    synthgen.render(n=20, out=tmp_path / "d", quiet=True, **settings)
    assert synthgen.render(n="60", out=tmp_path / "d", **settings, dry_run=True).missing_groups == 40
    with pytest.raises(ValueError, match="no option 'stdd'"):
        synthgen.render(n=1, out=tmp_path / "d", stdd=1, dry_run=True)
