"""A render killed at random moments and run again ends in the bytes of one that was never disturbed."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import synthgen
from shards.manifest import load_manifest
from shards.verification import verify

NUM_GROUPS, NUM_KILLS = 3000, 3
SECONDS_UNTIL_HOPELESS = 120


def command(out: Path, weights: Path) -> list[str]:
    options = {"n": NUM_GROUPS, "out": out, "weights": weights, "shard-size": 500, "batch-size": 20, "devices": "cpu"}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "synthgen", "render", *arguments, "--dtype=float32", "--quiet"]


def written_bytes(out: Path) -> int:
    """Bytes of tars, published or on the way."""
    total = 0
    for entry in os.scandir(out / "data") if (out / "data").is_dir() else ():
        if ".tar" in entry.name:
            try:
                total += entry.stat().st_size
            except FileNotFoundError:  # renamed since
                continue
    return total


def kill_at(process: subprocess.Popen[bytes], out: Path, target_bytes: int) -> None:
    """SIGKILL as soon as the dataset has grown past the target."""
    deadline = time.monotonic() + SECONDS_UNTIL_HOPELESS
    while process.poll() is None and written_bytes(out) < target_bytes:
        assert time.monotonic() < deadline
    process.kill()
    process.wait()


@pytest.mark.parametrize("seed", [0])
def test_killed_and_resumed_is_byte_identical(tiny_weights: Path, tmp_path: Path, seed: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    manifest = synthgen.render(
        n=NUM_GROUPS,
        out=whole,
        weights=tiny_weights,
        shard_size=500,
        batch_size=20,
        devices="cpu",
        dtype="float32",
        quiet=True,
    )
    moments = sorted(random.Random(seed).uniform(0.05, 0.95) for _ in range(NUM_KILLS))
    for moment in moments:
        process = subprocess.Popen(command(killed, tiny_weights), env={**os.environ, "OMP_NUM_THREADS": "1"})
        kill_at(process, killed, round(moment * manifest.total_bytes))
        assert process.returncode == -9, "it was done before it could be killed"
        with pytest.raises(ValueError, match="it was not finished"):
            load_manifest(killed)
        published = sorted((killed / "data").glob("*.tar"))
        for path in published:  # whatever bears a shard's name is whole
            assert path.read_bytes() == (whole / "data" / path.name).read_bytes()
    finished = subprocess.run(command(killed, tiny_weights), capture_output=True, check=True)
    assert finished.stderr == b""
    assert load_manifest(killed) == manifest
    for path in sorted((whole / "data").glob("*.tar")):
        assert hashlib.sha256((killed / "data" / path.name).read_bytes()).hexdigest() == next(
            shard.sha256 for shard in manifest.shards if shard.name == path.name
        )
    assert not [path for path in (killed / "data").iterdir() if path.name.startswith(".")]
    assert verify(killed).ok
