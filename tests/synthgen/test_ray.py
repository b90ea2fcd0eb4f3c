"""The Ray runner on a real cluster on this machine; skipped where Ray is not installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import synthgen
from shards.claims import read_claims
from shards.verification import verify
from synthgen.config import RenderConfig
from synthgen.runners import ray_cluster

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra ray")
SECONDS_UNTIL_HOPELESS = 240


def command(out: Path, weights: Path) -> list[str]:
    options = {"n": 4000, "out": out, "weights": weights, "shard-size": 500, "batch-size": 20, "runner": "ray"}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "synthgen", "render", *arguments, "--tasks=2", "--dtype=float32"]


@pytest.mark.ray
@pytest.mark.timeout(900)  # starting a cluster takes long where other jobs run
@needs_ray
def test_a_killed_ray_worker_is_replaced_and_the_bytes_are_the_same(tiny_weights: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "d"
    settings = {"shard_size": 500, "batch_size": 20, "dtype": "float32", "devices": "cpu"}
    manifest = synthgen.render(n=4000, out=whole, weights=tiny_weights, quiet=True, **settings)
    with subprocess.Popen(command(out, tiny_weights), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + SECONDS_UNTIL_HOPELESS
        while not (claims := read_claims(out)) or not list(out.glob("data/.train-*.tar.*.tmp")):
            assert time.monotonic() < deadline and process.poll() is None
        os.kill(claims[0].pid, signal.SIGKILL)
        said = process.communicate()[1]
    assert process.returncode == 0, said
    assert "2 tasks on Ray, 1 node" in said and re.search(r"4000/4000 groups \(100%\)", said)
    for shard in manifest.shards:
        assert hashlib.sha256((out / "data" / shard.name).read_bytes()).hexdigest() == shard.sha256
    assert (out / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
    assert verify(out).ok and synthgen.status(out).finished
    assert not [*out.glob("data/.*.tmp"), *out.glob(".work")]


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=re.escape("pip install -e '.[ray]' in the clone")):
        synthgen.render(n=4, out=tmp_path / "d", runner="ray")
    assert not (tmp_path / "d").exists()


class RayError(Exception):
    """As ray.exceptions.RayError."""


class RayTaskError(RayError):
    """As ray.exceptions.RayTaskError: what a task itself raised is its cause."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class PretendedRay:
    """A cluster of one node whose tasks never end, except one, on request, with what it raises."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, ending: BaseException | None) -> None:
        self.ending, self.cancelled, self.waits = ending, [], []
        self.num_tasks = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2}}]

    def remote(self, function: object) -> PretendedRay:
        return self

    def options(self, **options: object) -> SimpleNamespace:
        return SimpleNamespace(remote=self.submit)

    def submit(self, config: RenderConfig) -> int:
        self.num_tasks += 1
        return self.num_tasks - 1

    def wait(self, running: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        self.waits.append(timeout)
        if isinstance(self.ending, KeyboardInterrupt) and len(self.waits) == 1:
            raise self.ending
        return running[:1], running[1:]

    def get(self, reference: int) -> None:
        if reference == 1 and self.ending is not None:
            raise self.ending

    def cancel(self, reference: int) -> None:
        self.cancelled.append(reference)


@pytest.mark.parametrize(
    ("ending", "raised", "cancelled"),
    [
        (RayTaskError(OSError("the disk is full")), OSError, [2, 3]),
        (RayError("a node was lost"), ValueError, [2, 3]),
        (KeyboardInterrupt(), KeyboardInterrupt, [0, 1, 2, 3]),
    ],
)
def test_who_leaves_early_ends_the_tasks_that_are_left(
    ending: BaseException, raised: type, cancelled: list[int], tiny_weights: Path, tmp_path: Path
) -> None:
    ray = PretendedRay(ending)
    config = RenderConfig(n=40, out=tmp_path / "d", weights=tiny_weights, shard_size=10, runner="ray", tasks=4)
    with pytest.raises(raised):
        ray_cluster._run(ray, config, True)
    assert ray.cancelled == cancelled
    assert ray.waits[-1] == ray_cluster._PATIENCE_SECONDS, "they give their shards back"


def test_tasks_that_end_well_are_not_cancelled(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "finish_batch", lambda batch: "finished")
    ray = PretendedRay(None)
    config = RenderConfig(n=40, out=tmp_path / "d", weights=tiny_weights, shard_size=10, runner="ray", tasks=4)
    assert ray_cluster._run(ray, config, True) == "finished"
    assert ray.cancelled == [] and set(ray.waits) == {ray_cluster._POLL_SECONDS}
