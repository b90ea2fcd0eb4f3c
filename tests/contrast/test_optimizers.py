"""LARS against its published update, the rate of every step, and what the optimisers leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contrast.config import TrainConfig
from contrast.encoders import build_encoder
from contrast.lars import LARS
from contrast.optimizer import build_optimizer, default_settings, learning_rate_at
from contrast.run_options import RunOptions
from contrast.runlog import read_metrics
from contrast.training import train_encoder


def test_lars_equals_the_published_update() -> None:
    """google-research/simclr, lars_optimizer.py, apply_single, with use_nesterov and classic momentum as it ships."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 3, generator=generator), torch.randn(4, generator=generator)
    dead = torch.zeros(2, 2)
    mine = [tensor.clone().requires_grad_() for tensor in (weight, bias, dead)]
    optimizer = LARS(
        [
            {"params": [mine[0], mine[2]], "weight_decay": 0.01},
            {"params": [mine[1]], "weight_decay": 0.0, "adapt": False},
        ],
        lr=0.3,
    )
    expected = [tensor.double() for tensor in (weight, bias, dead)]
    momenta = [torch.zeros_like(tensor) for tensor in expected]
    for rate in (0.3, 0.4, 0.02, 0.1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        gradients = [torch.randn(tensor.shape, generator=generator) for tensor in expected]
        for parameter, gradient in zip(mine, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for i, (decay, adapt) in enumerate(((0.01, True), (0.0, False), (0.01, True))):
            gradient = gradients[i].double() + decay * expected[i]
            w_norm, g_norm = float(expected[i].norm()), float(gradient.norm())
            trust = 0.001 * w_norm / g_norm if adapt and w_norm > 0 and g_norm > 0 else 1.0
            momenta[i] = 0.9 * momenta[i] + rate * trust * gradient
            expected[i] = expected[i] - momenta[i]
    for parameter, value in zip(mine, expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-5, atol=1e-6)


def test_lars_keeps_biases_and_norms_out() -> None:
    network = build_encoder("convnet-small", image_size=32)
    groups = build_optimizer(TrainConfig(steps=1, optimizer="lars", weight_decay=0.3), network).param_groups
    assert [(group["adapt"], group["weight_decay"]) for group in groups] == [(True, 0.3), (False, 0.0)]
    assert all(parameter.ndim == 4 for parameter in groups[0]["params"])
    assert all(parameter.ndim == 1 for parameter in groups[1]["params"])


def test_sgd_has_momentum() -> None:
    optimizer = build_optimizer(TrainConfig(steps=1, optimizer="sgd"), nn.Linear(2, 2))
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]


def test_every_parameter_takes_its_step_with_the_rate_of_the_step(
    groups: Path, tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []

    def build(*given: Any) -> torch.optim.Optimizer:
        optimizer = build_optimizer(*given)
        optimizer.register_step_pre_hook(lambda *_: rates.append([group["lr"] for group in optimizer.param_groups]))
        return optimizer

    monkeypatch.setattr("contrast.training.build_optimizer", build)
    options = RunOptions(device="cpu", quiet=True, log_every=2)
    train_encoder(config, shards=groups, out=tmp_path / "run", options=options)
    assert rates == [[learning_rate_at(config, step)] * 2 for step in range(6)]
    recorded = [record["learning_rate"] for record in read_metrics(tmp_path / "run")]
    assert recorded == [learning_rate_at(config, step) for step in (1, 3, 5)]


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("torchvision:vit_b_16", ["class_token", "encoder.pos_embedding"]),
        ("torchvision:swin_t", ["features.1.0.attn.relative_position_bias_table"]),
        ("torchvision:convnext_tiny", ["features.1.0.layer_scale"]),
        ("timm:vit_tiny_patch16_224", ["cls_token", "pos_embed"]),
        ("timm:swinv2_tiny_window8_256", ["layers.0.blocks.0.attn.cpb_mlp.0.weight"]),  # a matrix that the model lists
    ],
)
def test_tokens_positions_and_layer_scales_do_not_decay(optimizer: str, name: str, free: list[str]) -> None:
    pytest.importorskip(name.partition(":")[0])
    with torch.device("meta"):
        network = nn.ModuleDict({"encoder": build_encoder(name, image_size=64)})
    config = TrainConfig(steps=1, optimizer=optimizer, weight_decay=0.3)
    decayed, rest = build_optimizer(config, network).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    ids = {id(parameter) for parameter in rest["params"]}
    left_free = {path for path, parameter in network.named_parameters() if id(parameter) in ids}
    assert {f"encoder.backbone.{path}" for path in free} <= left_free
    assert len(decayed["params"]) + len(rest["params"]) == len(list(network.parameters()))
    modules = dict(network.named_modules())
    for path, _ in network.named_parameters():  # and every layer's matrix or kernel does
        module, _, part = path.rpartition(".")
        if isinstance(modules[module], nn.Linear | nn.Conv2d) and part == "weight" and "cpb_mlp" not in path:
            assert path not in left_free, path


def test_lars_in_a_step_without_gradients_does_nothing() -> None:
    parameter = torch.ones(2, 2, requires_grad=True)
    optimizer = LARS([{"params": [parameter]}], lr=0.1)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(2, 2)) and not optimizer.state


@pytest.mark.parametrize(
    ("optimizer", "rate", "decay"), [("adamw", 2e-3, 0.05), ("sgd", 0.12, 5e-4), ("lars", 0.6, 1e-6)]
)
def test_published_rates(optimizer: str, rate: float, decay: float) -> None:
    assert default_settings("simclr", optimizer, batch_size=512) == {"learning_rate": rate, "weight_decay": decay}
