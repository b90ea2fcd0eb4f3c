"""The Slurm runner on a real Slurm of one node on this machine; skipped where Slurm or submitit is not installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import synthgen
from shards.claims import read_claims
from shards.manifest import Manifest
from shards.verification import verify

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from local_slurm import local_slurm, missing_programs

lacking = [*missing_programs(), *(["submitit"] if importlib.util.find_spec("submitit") is None else [])]
needs_slurm = [
    pytest.mark.slurm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(lacking), reason=f"not installed: {', '.join(lacking)}; see tools/local_slurm.py"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of Slurm need root"),
]
SECONDS_UNTIL_HOPELESS = 280
NUM_GROUPS = 4000
SETTINGS = {"shard_size": 500, "batch_size": 20, "dtype": "float32"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder, local_slurm(Path(folder), cpus=2) as names:
        yield {**os.environ, **names, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def whole(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    out = tmp_path_factory.mktemp("whole") / "d"
    return out, synthgen.render(n=NUM_GROUPS, out=out, weights=tiny_weights, quiet=True, devices="cpu", **SETTINGS)


def arguments(out: Path, weights: Path) -> list[str]:
    options = {"n": NUM_GROUPS, "out": out, "weights": weights, **SETTINGS}
    return ["-m", "synthgen", "render", *(f"--{name.replace('_', '-')}={value}" for name, value in options.items())]


def wait_until(condition: Callable[[], object]) -> None:
    hopeless = time.monotonic() + SECONDS_UNTIL_HOPELESS
    while not condition():
        assert time.monotonic() < hopeless


def is_in_mid_shard(out: Path) -> bool:
    return bool(read_claims(out)) and bool(list(out.glob("data/.train-*.tar.*.tmp")))


def assert_same(out: Path, whole: tuple[Path, Manifest]) -> None:
    for shard in whole[1].shards:
        assert hashlib.sha256((out / "data" / shard.name).read_bytes()).hexdigest() == shard.sha256
    assert (out / "manifest.json").read_bytes() == (whole[0] / "manifest.json").read_bytes()
    assert verify(out).ok and synthgen.status(out).finished
    assert not [*out.glob("data/.*.tmp"), *out.glob(".work"), *out.glob(".tasks")]


class TestOnSlurm:
    pytestmark = needs_slurm

    @pytest.mark.parametrize("how", ["killed", "preempted"])
    def test_a_task_lost_in_mid_shard_is_done_again(
        self, how: str, cluster: dict[str, str], whole: tuple[Path, Manifest], tiny_weights: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "d"
        command = [sys.executable, *arguments(out, tiny_weights), "--runner=slurm", "--tasks=2"]
        command += ["--slurm=cpus_per_task=1,time=30"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=cluster) as runner:
            wait_until(lambda: is_in_mid_shard(out))
            if how == "killed":
                os.kill(read_claims(out)[0].pid, signal.SIGKILL)
            else:  # what Slurm sends before it takes the node away
                queue = ["squeue", "--noheader", "--array", "--states=R", "--format=%i"]
                job = subprocess.run(queue, env=cluster, capture_output=True, text=True).stdout.split()[0]
                subprocess.run(["scancel", "--signal=USR2", job], env=cluster, check=True)
            said = runner.communicate(timeout=SECONDS_UNTIL_HOPELESS)[1]
        assert runner.returncode == 0, said
        assert "2 tasks submitted to Slurm as job" in said and "4000/4000 groups (100%)" in said
        resubmitted = re.search(r"1 task \(\d\) left the queue unfinished: submitted again", said)
        assert (resubmitted is not None) == (how == "killed"), said
        assert_same(out, whole)

    def test_an_array_without_our_runner(
        self, cluster: dict[str, str], whole: tuple[Path, Manifest], tiny_weights: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "d"
        line = " ".join([sys.executable, *arguments(out, tiny_weights)])
        script = f"#!/bin/bash\n#SBATCH --array=1-3\n#SBATCH --cpus-per-task=1\n#SBATCH --output={tmp_path}/%a.log\n"
        (tmp_path / "render.sbatch").write_text(f"{script}srun {line}\n")
        subprocess.run(["sbatch", "--wait", str(tmp_path / "render.sbatch")], env=cluster, check=True)
        assert_same(out, whole)
        logs = "".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
        assert "task 2 of 3 (SLURM_ARRAY_TASK_ID)" in logs


# ---------------------------------------------------------------------------------------------------------------------
# Without a cluster


def test_without_submitit_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'synthgen[slurm]'")):
        synthgen.render(n=4, out=tmp_path / "d", runner="slurm")
    assert not (tmp_path / "d").exists()


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed: synthgen[slurm]")
def test_without_slurm_one_is_told_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no sbatch here: give --runner slurm on a machine that submits"):
        synthgen.render(n=4, out=tmp_path / "d", runner="slurm")


@pytest.mark.skipif("submitit" in lacking or shutil.which("srun") is None, reason="submitit or srun is not installed")
def test_options_that_sbatch_has_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"slurm 'colour': sbatch options are account, .*partition, .*time"):
        synthgen.render(n=4, out=tmp_path / "d", runner="slurm", slurm="time=5,colour=red")
