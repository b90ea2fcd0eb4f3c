"""Two real gloo processes on loopback against one process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contrast.losses import multi_positive_loss
from contrast.runlog import read_metrics


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, groups: Path) -> Path:
    folder = tmp_path_factory.mktemp("gloo")
    generator = torch.Generator().manual_seed(0)
    case = {
        "weight": torch.randn(6, 8, generator=generator, dtype=torch.float64),
        "inputs": torch.randn(16, 8, generator=generator, dtype=torch.float64),
        # Uneven on purpose: positives across the cut, and anchors without positives on one side only.
        "ids": torch.tensor([0, 0, 1, 2, 2, 3, 4, 5, 1, 1, 3, 6, 6, 6, 0, 0]),
    }
    torch.save(case, folder / "case.pt")
    script = Path(__file__).with_name("gloo_processes.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    arguments = [str(folder / "case.pt"), str(folder / "result.pt"), str(groups), str(folder / "run")]
    torchrun = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, errors = torchrun.communicate(timeout=200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(torchrun.pid, signal.SIGKILL)  # processes that wait for each other would wait on
    assert torchrun.returncode == 0, errors[-3000:]
    return folder


def test_loss_and_gradient_equal_one_process(two_processes: Path) -> None:
    case = torch.load(two_processes / "case.pt", weights_only=True)
    result = torch.load(two_processes / "result.pt", weights_only=True)
    weight = case["weight"].clone().requires_grad_()
    loss = multi_positive_loss(case["inputs"] @ weight.T, case["ids"], temperature=0.2)
    loss.backward()
    assert weight.grad is not None
    assert result["loss"] == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(result["gradient"], weight.grad, rtol=1e-6, atol=1e-9)


def test_a_run_of_two_processes_is_recorded_once(two_processes: Path) -> None:
    run = two_processes / "run"
    assert [record["step"] for record in read_metrics(run)] == [2, 4]
    assert json.loads((run / "environment.json").read_text())[0]["num_processes"] == 2
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 4
