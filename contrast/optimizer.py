"""The optimiser and its learning rate, both plain functions of the config and the step number.

optimizer = build_optimizer(config, network)
set_learning_rate(optimizer, learning_rate_at(config, step))
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer

from contrast.config import TrainConfig
from contrast.lars import LARS
from contrast.objectives import OBJECTIVES
from shards.canonical import JSON

MOMENTUM = 0.9


def default_settings(objective: str, optimizer: str, *, batch_size: int) -> dict[str, JSON]:
    """What goes with an objective and an optimiser where nothing is given: head, learning rate, weight decay.

    AdamW: measured for short runs of the small encoder. SGD: the CIFAR-10 recipe of ResNet-18, 0.06 per 256 groups.
    LARS: SimCLR's ImageNet recipe, 0.3 per 256 groups (Chen et al. 2020, section 2.3).
    """
    settings = dict(OBJECTIVES[objective].defaults)
    if optimizer == "sgd":
        return settings | {"learning_rate": 0.06 * batch_size / 256, "weight_decay": 5e-4}
    if optimizer == "lars":
        return settings | {"learning_rate": 0.3 * batch_size / 256, "weight_decay": 1e-6}
    return settings | {"learning_rate": 2e-3, "weight_decay": 0.05}


def build_optimizer(config: TrainConfig, network: nn.Module) -> Optimizer:
    """SGD, LARS or AdamW with two explicit parameter groups: those of `split_parameters`.

    The second does not decay, and LARS does not adapt its steps to its length.
    """
    decayed, free = split_parameters(network)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=MOMENTUM)
    if config.optimizer == "lars":
        return LARS([groups[0], {**groups[1], "adapt": False}], lr=config.learning_rate)
    assert config.optimizer == "adamw", config.optimizer
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that decay, and those that are left free, both in the network's order.

    Matrices and kernels decay: weights, by name, of more than one dimension. Class tokens, position embeddings, tables
    of relative positions and layer scales may have several dimensions too, and go by other names. What a module lists
    in `no_weight_decay()`, timm's convention, is left free as well.
    """
    listed = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if callable(getattr(module, "no_weight_decay", None))
        for name in module.no_weight_decay()  # type: ignore[operator]
    }
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_weight = parameter.ndim > 1 and "weight" in name.rpartition(".")[2]
        (decayed if is_weight and name not in listed else free).append(parameter)
    return decayed, free


def learning_rate_at(config: TrainConfig, step: int) -> float:
    """Linear warm-up to the peak, then half a cosine: the last step still moves, the one after it would not."""
    warmup_steps = config.warmup * config.steps
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(config.steps - warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Gives all parameter groups the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
