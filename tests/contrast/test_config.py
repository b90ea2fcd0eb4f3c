"""Configurations: refusals, JSON, durations, and what follows from them for the optimiser."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from contrast import distributed
from contrast.augment import AugmentConfig
from contrast.config import TrainConfig, steps_of
from contrast.devices import explain_out_of_memory, fastest_precision, resolve_device
from contrast.encoders import build_encoder
from contrast.optimizer import build_optimizer, learning_rate_at
from contrast.starting import configure_run
from shards.dataset import GroupDataset


def test_json_round_trip() -> None:
    config = TrainConfig(steps=5, objective="supcon", augment=AugmentConfig(crop_scale=(0.5, 0.9)))
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    with pytest.raises(ValueError, match="does not know: flavour"):
        TrainConfig.from_json({**config.to_json(), "flavour": 1})


def test_a_configuration_of_the_first_version_still_loads() -> None:
    """As the demo's run folders have it: what came later takes the value that changes nothing."""
    augment = {
        "crop_scale": [0.2, 1.0], "crop_ratio": [0.75, 1.3333333333333333], "flip": 0.5, "jitter": 0.8,
        "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "gray": 0.2,
    }  # fmt: skip
    old = {
        "steps": 1500, "objective": "simclr", "encoder": "convnet-small", "batch_size": 128, "optimizer": "adamw",
        "learning_rate": 0.002, "weight_decay": 0.05, "warmup": 0.1, "temperature": 0.1, "head_hidden_dim": 512,
        "head_dim": 128, "augment": augment, "precision": "bfloat16", "seed": 0,
    }  # fmt: skip
    assert TrainConfig.from_json(old) == TrainConfig(steps=1500, precision="bfloat16")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positives": "ty"}, "unknown positives 'ty': choose one of both, tx, tz, shuffled"),
        ({"mix_share": 1.0}, "--mix: a share of 1.0 of the batch: give one from 0 to below 1"),
        ({"accumulate": 0}, "accumulate 0: give a whole number from 1 on"),
        ({"accumulate": 3}, "accumulate 3: a batch of 128 groups does not divide into as many parts"),
    ],
)
def test_wrong_new_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"steps": 5, **settings})


@pytest.mark.parametrize(
    ("settings", "count", "message"),
    [
        ({"batch_size": 12}, 5, "batch size 12 does not divide among 5 processes: use a multiple"),
        (
            {"batch_size": 12, "accumulate": 4},
            2,
            "batch size 12 does not divide among 2 processes in 4 parts: use",
        ),
        # 130 is a multiple of 5, but 98 is none
        (
            {"batch_size": 130, "mix_share": 0.25},
            5,
            "batch size 130 with 32 real .* use another --batch-size or --mix",
        ),
    ],
)
def test_a_batch_is_shared_evenly(settings: dict[str, Any], count: int, message: str) -> None:
    config = TrainConfig(steps=5, **settings)
    config.check_processes(2 // config.accumulate or 1)
    with pytest.raises(ValueError, match=message):
        config.check_processes(count)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps 0"),
        ({"batch_size": -1}, "batch-size -1"),
        ({"objective": "byol"}, "unknown objective 'byol': choose one of simclr, multi-positive, supcon, vicreg"),
        ({"encoder": "vgg"}, "unknown encoder 'vgg'"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"learning_rate": 0.0}, "learning-rate 0.0"),
        ({"learning_rate": float("nan")}, "learning-rate nan"),
        ({"learning_rate": 1e300}, r"learning-rate 1e\+300: give a number above 0 and at most 1e\+38"),
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"weight_decay": -1.0}, "weight-decay -1.0"),
        ({"warmup": 1.5}, "warmup 1.5"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, r"seed 9223372036854775808: .* below 2\^63"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"steps": 5, **settings})


def test_durations_become_steps() -> None:
    sizes = {"num_groups": 1050, "batch_size": 100}
    assert steps_of(samples=None, steps=7, epochs=None, **sizes) == 7
    assert steps_of(samples=5000, steps=None, epochs=None, **sizes) == 50
    assert steps_of(samples=None, steps=None, epochs=3, **sizes) == 30  # the 50 groups left over are not seen
    assert steps_of(samples=None, steps=None, epochs=0.5, **sizes) == 5
    mixed = {**sizes, "num_generated": 75}  # samples are of both kinds, a pass is over the generated ones
    assert steps_of(samples=5000, steps=None, epochs=None, **mixed) == 50
    assert steps_of(samples=None, steps=None, epochs=3, **mixed) == 42
    for given in ({}, {"steps": 1, "epochs": 1.0}, {"samples": 5, "steps": 1, "epochs": 1.0}):
        with pytest.raises(ValueError, match="exactly one of --samples, --steps and --epochs"):
            steps_of(**{"samples": None, "steps": None, "epochs": None, **given}, **sizes)
    with pytest.raises(ValueError, match="--samples is shorter than one step"):
        steps_of(samples=99, steps=None, epochs=None, **sizes)
    for epochs in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"epochs {epochs}: give a number above 0"):
            steps_of(samples=None, steps=None, epochs=epochs, **sizes)


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    config = TrainConfig(steps=100, learning_rate=2.0, warmup=0.1)
    rates = [learning_rate_at(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(2 / 11)
    assert rates[10] == pytest.approx(2.0) == max(rates)
    assert rates[55] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.001
    assert learning_rate_at(TrainConfig(steps=1, learning_rate=2.0, warmup=0.0), 0) == 2.0
    assert learning_rate_at(TrainConfig(steps=5, learning_rate=2.0, warmup=1.0), 4) == pytest.approx(2 * 5 / 6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_decay_and_biases_do_not(optimizer: str) -> None:
    network = build_encoder("convnet-small", image_size=32)
    groups = build_optimizer(TrainConfig(steps=1, optimizer=optimizer, weight_decay=0.3), network).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert all(parameter.ndim == 4 for parameter in groups[0]["params"])
    assert all(parameter.ndim == 1 for parameter in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_automatic_choices_are_made_once(groups: Path, tmp_path: Path) -> None:
    def configure(**options: Any) -> TrainConfig:
        return configure_run(shards=groups, out=tmp_path / "run", device="cpu", **options)

    adamw = configure(steps=3, settings={"batch_size": 32})
    assert (adamw.optimizer, adamw.learning_rate, adamw.weight_decay) == ("adamw", 2e-3, 0.05)
    sgd = configure(steps=3, settings={"optimizer": "sgd", "batch_size": 64})
    assert (sgd.learning_rate, sgd.weight_decay) == (0.06 * 64 / 256, 5e-4)
    assert configure(steps=3, settings={"batch_size": 9, "learning_rate": 0.3}).learning_rate == 0.3
    assert configure(epochs=2, n=64, settings={"batch_size": 32}).steps == 4
    assert adamw.precision in ("float32", "bfloat16")
    with pytest.raises(ValueError, match="unknown setting 'batchsize'"):
        configure(steps=3, settings={"batchsize": 2})
    with pytest.raises(ValueError, match="batch size 128 is larger than the 96 groups"):
        configure(epochs=2)
    blurred = {"batch_size": 32, "augment": "blur=0.5"}
    assert configure(steps=3, settings=blurred).augment.blur == 0.5
    with pytest.raises(ValueError, match=r"positives tz: these images are not augmented; omit --augment"):
        configure(steps=3, settings={**blurred, "positives": "tz"})


def test_emulated_bfloat16_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card before Ampere can compute in it, slowly; and it is the card that was asked for that counts."""
    asked: list[torch.device] = []
    native = [torch.device("cuda", 1)]
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(asked.append(device)))
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or asked[-1] in native
    )
    assert fastest_precision(torch.device("cuda", 0)) == "float32"
    assert fastest_precision(torch.device("cuda", 1)) == "bfloat16"


def test_a_run_keeps_the_precision_that_it_began_with(groups: Path, tmp_path: Path) -> None:
    from contrast.run_folder import RunRecord, open_run
    from contrast.trained_on import SeenGroups, TrainedOn

    for precision in ("float32", "bfloat16"):
        run = tmp_path / precision
        recipe = GroupDataset(groups).manifest.recipe
        trained_on = TrainedOn(groups=SeenGroups(recipe=recipe, num_groups=96), class_names={})
        begun = TrainConfig(steps=3, precision=precision)
        with open_run(run, RunRecord(config=begun, trained_on=trained_on)):
            (run / "checkpoint.pt").touch()
        assert configure_run(shards=groups, out=run, steps=3, settings={"batch_size": 32}).precision == precision


def test_devices_are_checked_before_anything_starts() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match=r"no device cuda:97 here .*use --device cpu"):
        resolve_device("cuda:97")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_a_gpu_without_room_is_one_line(error: Exception) -> None:
    with (
        pytest.raises(ValueError, match=r"^cuda:1 ran out of memory(, or its .*)?: use a smaller --batch-size$"),
        explain_out_of_memory(torch.device("cuda:1"), fix="use a smaller --batch-size"),
    ):
        raise error
    here, there = pytest.raises(ValueError, match=r"^this machine ran out of memory: x$"), torch.device("cuda:1")
    with here, explain_out_of_memory(there, fix="x"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(torch.device("cpu"), fix=""):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(("device", "ended"), [("cpu", 2), ("cuda", 1)])
def test_a_failing_process_leaves_the_others_on_gpus_to_torchrun(
    monkeypatch: pytest.MonkeyPatch, device: str, ended: int
) -> None:
    """NCCL would wait for them, while they wait for this process."""
    calls: list[str] = []
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "resolve_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for name, value in {"init_process_group": calls.append, "get_rank": lambda: 0, "get_world_size": lambda: 2}.items():
        monkeypatch.setattr(distributed.dist, name, value)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: calls.append("ended"))
    with pytest.raises(ZeroDivisionError), distributed.process_group(device):
        raise ZeroDivisionError
    with distributed.process_group(device):
        pass
    assert calls.count("ended") == ended and calls[0] == ("nccl" if device == "cuda" else "gloo")
