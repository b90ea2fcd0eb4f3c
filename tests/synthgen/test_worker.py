"""A worker's claims: renewed as long as it lives, whatever it waits for, and not a moment longer."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

import synthgen
from shards.claims import LEASE_SECONDS, read_claim, read_claims
from synthgen.pipeline import ShardRenderer
from synthgen.runners import worker

SECONDS_UNTIL_HOPELESS = 30


def renewing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "renew claims"]


def render(out: Path, weights: Path) -> None:
    settings = {"shard_size": 20, "batch_size": 10, "dtype": "float32", "devices": "cpu", "quiet": True}
    synthgen.render(n=40, out=out, weights=weights, **settings)


def test_a_block_that_takes_long_does_not_cost_the_shard(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_RENEW_SECONDS", 0.01)
    out, generate, ages = tmp_path / "d", ShardRenderer._generate, []
    path = out / ".work/train-000000.claim.json"

    def generate_slowly(self: ShardRenderer, *arguments: object) -> object:
        """Goes on once a claim of which nothing was heard for very long has been renewed."""
        if not ages:
            os.utime(path, (time.time() - LEASE_SECONDS - 20,) * 2)
            deadline = time.monotonic() + SECONDS_UNTIL_HOPELESS
            while (found := read_claim(out, 0)) is None or (found.is_void and time.monotonic() < deadline):
                pass
            ages.append(found.age_seconds)
        return generate(self, *arguments)

    monkeypatch.setattr(ShardRenderer, "_generate", generate_slowly)
    render(out, tiny_weights)
    assert ages[0] < LEASE_SECONDS
    assert renewing_threads() == [] and read_claims(out) == []


def test_renewing_ends_with_a_worker_that_failed(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def fail(self: ShardRenderer, *arguments: object) -> None:
        seen.append(len(renewing_threads()))
        raise RuntimeError("the generator failed")

    monkeypatch.setattr(ShardRenderer, "_generate", fail)
    with pytest.raises(RuntimeError, match="the generator failed"):
        render(tmp_path / "d", tiny_weights)
    assert set(seen) == {1}
    assert renewing_threads() == [] and read_claims(tmp_path / "d") == []
