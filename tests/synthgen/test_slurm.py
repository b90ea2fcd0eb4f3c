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
from types import SimpleNamespace

import pytest

import synthgen
from shards.claims import read_claims
from shards.manifest import Manifest
from shards.verification import verify
from synthgen.runners import slurm

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
    deadline = time.monotonic() + SECONDS_UNTIL_HOPELESS
    while not condition():
        assert time.monotonic() < deadline


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
    with pytest.raises(ValueError, match=re.escape("pip install -e '.[slurm]' in the clone")):
        synthgen.render(n=4, out=tmp_path / "d", runner="slurm")
    assert not (tmp_path / "d").exists()


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed: the extra slurm")
def test_without_slurm_one_is_told_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no sbatch here: give --runner slurm on a machine that submits"):
        synthgen.render(n=4, out=tmp_path / "d", runner="slurm")


@pytest.mark.skipif("submitit" in lacking or shutil.which("srun") is None, reason="submitit or srun is not installed")
def test_options_that_sbatch_has_not(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"slurm 'colour': sbatch options are account, .*partition, .*time"):
        synthgen.render(n=4, out=tmp_path / "d", runner="slurm", slurm="time=5,colour=red")


class Squeue:
    """Answers in place of `subprocess.run`: from a list of what to answer, None where Slurm is silent; then always."""

    def __init__(self, *answers: str | None) -> None:
        self.answers, self.commands = list(answers), []

    def __call__(self, command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            return subprocess.CompletedProcess(
                command, 1, "", "slurm_load_jobs error:\n Unable to contact controller\n"
            )
        return subprocess.CompletedProcess(command, 0, answer, "")


def follow(monkeypatch: pytest.MonkeyPatch, squeue: Squeue, *, looks: int) -> list[int]:
    """Follows a batch of two tasks that is done after so many looks at it; returns the tasks that were submitted."""
    monkeypatch.setattr(slurm, "_QUEUE_SECONDS", 0.0)
    monkeypatch.setattr(subprocess, "run", squeue)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(slurm, "_unfinished_tasks", lambda batch, num_tasks: [0, 1])
    submitted: list[int] = []

    def map_array(task: object, configs: list[int]) -> list[SimpleNamespace]:
        submitted.extend(configs)
        return [SimpleNamespace(job_id=f"12_{index}") for index in configs]

    class Batch(SimpleNamespace):
        @property
        def is_done(self) -> bool:
            self.looks -= 1
            return self.looks < 0

    batch = Batch(
        looks=looks,
        update=lambda: None,
        config=SimpleNamespace(out="d"),
        task_config=lambda index, count: index,
        progress=SimpleNamespace(note=lambda text: None, warn=lambda text: None),
    )
    slurm._follow(batch, SimpleNamespace(map_array=map_array), 2)
    return submitted


def test_a_queue_that_is_silent_now_and_then_is_borne_with(monkeypatch: pytest.MonkeyPatch) -> None:
    silence = [None] * (slurm._MOST_SILENCES - 1)
    squeue = Squeue("", *silence, "12_0\n12_1\n", *silence, "12_0\n12_1\n", None)
    assert follow(monkeypatch, squeue, looks=2 * slurm._MOST_SILENCES) == [0, 1], "who is in the queue is not lost"
    assert f"--user={os.getuid()}" in squeue.commands[0], "whatever the environment calls the user"


def test_a_queue_that_stays_silent_is_an_error_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        r"^squeue --noheader --array .* failed \(slurm_load_jobs error: Unable to contact controller\), "
        rf"{slurm._MOST_SILENCES} times in a row: submitted tasks stay in the queue"
    )
    with pytest.raises(ValueError, match=said):
        follow(monkeypatch, Squeue("", None), looks=10 * slurm._MOST_SILENCES)
