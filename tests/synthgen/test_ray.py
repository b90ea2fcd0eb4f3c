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

import pytest

import synthgen
from shards.claims import read_claims
from shards.verification import verify

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: synthgen[ray]")
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
        hopeless = time.monotonic() + SECONDS_UNTIL_HOPELESS
        while not (claims := read_claims(out)) or not list(out.glob("data/.train-*.tar.*.tmp")):
            assert time.monotonic() < hopeless and process.poll() is None
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
    with pytest.raises(ValueError, match=re.escape("pip install 'synthgen[ray]'")):
        synthgen.render(n=4, out=tmp_path / "d", runner="ray")
    assert not (tmp_path / "d").exists()
