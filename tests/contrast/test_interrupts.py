"""Ctrl-C ends a run at its next record, whole; a second one at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

from contrast.interrupts import postponed_interrupt
from contrast.runlog import read_metrics
from tests.file_server import serve_files

NUM_STEPS = 600


@pytest.fixture
def heeding() -> Iterator[None]:
    """A shell starts what runs in its background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_what_was_learnt(groups: Path, tmp_path: Path) -> None:
    """Long before a checkpoint is due: the run goes on to its next record, writes one and ends."""
    command = [sys.executable, "-m", "contrast", "train", "--shards", str(groups), "--out", str(tmp_path / "run")]
    command += [f"--steps={NUM_STEPS}", "--batch-size=12", "--device=cpu", "--threads=1"]
    metrics = tmp_path / "run" / "metrics.jsonl"
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "stopping after the next record, to keep what was learnt; Ctrl-C again stops at once" in said
    assert said.strip().splitlines()[-1].startswith("Error: stopped by Ctrl-C: what is finished is kept")
    step = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < step < NUM_STEPS and read_metrics(tmp_path / "run")[-1]["step"] == step and step % 10 == 0


def test_a_server_that_is_silent_keeps_nobody(groups: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "contrast",
        "train",
        "--out",
        str(tmp_path / "run"),
        "--cache",
        str(tmp_path / "c"),
    ]
    command += ["--steps=9", "--batch-size=12", "--device=cpu", "--threads=1"]
    with serve_files(groups) as server:
        server.silent |= {path.name for path in (groups / "data").glob("*.tar")}
        process = subprocess.Popen(
            [*command, "--shards", server.address],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        try:
            while not server.asked["train-000000.tar"] and process.poll() is None:
                os.sched_yield()
            assert process.stderr is not None
            process.send_signal(signal.SIGINT)
            while "Ctrl-C again" not in (line := process.stderr.readline()) and line:
                pass
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130 and "Error: stopped by Ctrl-C" in said, said


def test_the_first_one_is_remembered_until_the_end(heeding: None, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), postponed_interrupt("soon") as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted() and capfd.readouterr().err == "\nsoon\n"
    with pytest.raises(KeyboardInterrupt):  # and afterwards it is what it was
        signal.raise_signal(signal.SIGINT)


def test_the_second_one_stops_at_once(heeding: None) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), postponed_interrupt("soon"):
        signal.raise_signal(signal.SIGINT)
        reached.append("between")
        signal.raise_signal(signal.SIGINT)
        reached.append("behind")
    assert reached == ["between"]
    with postponed_interrupt("soon") as interrupted:  # one that nobody disturbs
        assert not interrupted()


def test_other_handlers_and_other_threads_are_left_alone(heeding: None) -> None:
    def handler_inside() -> object:
        with postponed_interrupt("soon") as interrupted:
            assert not interrupted()
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor() as pool:
        assert pool.submit(handler_inside).result() is signal.default_int_handler
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert handler_inside() is signal.SIG_IGN
