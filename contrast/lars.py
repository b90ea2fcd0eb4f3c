"""LARS: every weight matrix moves by a step in proportion to its own length, so that very large batches train.

You, Gitman and Ginsburg 2017, with SimCLR's constants (google-research/simclr, lars_optimizer.py): trust coefficient
0.001, momentum 0.9, and the learning rate inside the momentum. Biases, normalisation and whatever else does not decay
are in a group with `adapt=False`: plain momentum.

    optimizer = LARS([{"params": weights, "weight_decay": 1e-6}, {"params": biases, "adapt": False}], lr=0.3)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer

TRUST_COEFFICIENT = 0.001
MOMENTUM = 0.9


class LARS(Optimizer):
    """SGD with momentum whose learning rate is scaled per tensor by 0.001 |w| / |g + weight decay * w|."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "momentum": MOMENTUM, "adapt": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; never waits for the device."""
        assert closure is None, "LARS takes no closure"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad.add(parameter, alpha=group["weight_decay"])
                if group["adapt"]:
                    weight_norm, update_norm = parameter.norm(), update.norm()
                    trust = TRUST_COEFFICIENT * weight_norm / update_norm
                    # A tensor or a gradient of length zero has no direction to keep: plain SGD.
                    update = update * torch.where((weight_norm > 0) & (update_norm > 0), trust, 1.0)
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(update, alpha=group["lr"])
                parameter.sub_(state["momentum"])
