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

from contrast.config import TrainConfig
from contrast.losses import multi_positive_loss
from contrast.objectives import OBJECTIVES, build_objective
from contrast.run_folder import read_run
from contrast.run_options import RunOptions
from contrast.runlog import read_metrics
from contrast.training import train_encoder

sys.path.insert(0, str(Path(__file__).parent))
from gloo_processes import FACTS, learn, linear, targets_of


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, groups: Path) -> Path:
    folder = tmp_path_factory.mktemp("gloo")
    generator = torch.Generator().manual_seed(0)
    case = {
        "weight": torch.randn(6, 8, generator=generator, dtype=torch.float64),
        "inputs": torch.randn(16, 8, generator=generator, dtype=torch.float64),
        # Uneven on purpose: positives across the cut, and anchors without positives on one side only.
        "ids": torch.tensor([0, 0, 1, 2, 2, 3, 4, 5, 1, 1, 3, 6, 6, 6, 0, 0]),
        "classes": torch.tensor([0, 1, 2, 0, 2, 2, 1, 0]),
        "latents": torch.randn(8, 2, 3, generator=generator),
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


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_equals_one_process(two_processes: Path, name: str, num_parts: int) -> None:
    case = torch.load(two_processes / "case.pt", weights_only=True)
    result = torch.load(two_processes / "result.pt", weights_only=True)[f"{name}/{num_parts}"]
    network = linear(case["weight"])
    objective = build_objective(TrainConfig(steps=1, objective=name, batch_size=8), FACTS)
    # Part p of the batch is what every process has as its part p.
    orders = {1: [list(range(8))], 2: [[0, 1, 4, 5], [2, 3, 6, 7]]}
    parts = [targets_of(case, order) for order in orders[num_parts]]
    loss, gradient = learn(objective, network, parts, weight=network.weight)
    assert result["loss"] == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(result["gradient"], gradient, rtol=1e-6, atol=1e-9)


def test_the_group_leaves_no_thread_behind(two_processes: Path) -> None:
    """One that still lets go of a tensor when Python shuts down would abort the process."""
    result = torch.load(two_processes / "result.pt", weights_only=True)
    assert any("gloo" in name for name in result["threads"])
    assert not any("gloo" in name for name in result["threads afterwards"])


def test_synchronised_batch_norm_on_cpus_is_refused(two_processes: Path) -> None:
    result = torch.load(two_processes / "result.pt", weights_only=True)
    assert result["synced"] == "--sync-batchnorm needs GPUs: omit it on CPUs"


@pytest.mark.parametrize("what", ["other settings", "other groups"])
def test_processes_that_were_started_differently_do_not_begin(two_processes: Path, what: str) -> None:
    result = torch.load(two_processes / "result.pt", weights_only=True)
    assert result[what].startswith("the processes were started with different settings or on different groups: start")
    assert not result["begun"]


def test_parts_of_a_mixed_batch_train_on_two_processes(two_processes: Path) -> None:
    state = torch.load(two_processes / "run-in-parts" / "checkpoint.pt", weights_only=True)
    assert (state["step"], state["config"]["accumulate"]) == (2, 2)


def test_a_streamed_run_keeps_the_number_of_its_processes(two_processes: Path, groups: Path) -> None:
    run = two_processes / "run-streamed"
    record = read_run(run)
    assert record.trained_on.num_processes == 2
    options = RunOptions(device="cpu", quiet=True, reader="webdataset")
    with pytest.raises(ValueError, match=r"trained_on\.num_processes: 2 in the folder, 1 asked for"):
        train_encoder(record.config, shards=groups, out=run, options=options)


def test_a_run_of_two_processes_is_recorded_once(two_processes: Path) -> None:
    run = two_processes / "run"
    assert [record["step"] for record in read_metrics(run)] == [2, 4]
    assert json.loads((run / "environment.json").read_text())[0]["num_processes"] == 2
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 4
