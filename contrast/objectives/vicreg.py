"""VICReg: no negatives. Two images of a group shall agree, and over the batch no component may die or repeat another.

Bardes, Ponce and LeCun, ICLR 2022, equations 1 to 6, with the weights and the expander of the authors' code
(facebookresearch/vicreg): 25, 25 and 1; variance target 1; the variance of the two branches averaged, their
covariances added; three layers with batch normalisation, 2048 wide unless told (theirs: 8192, for features of 2048).
Unlike theirs, both images go through encoder and expander in one forward, so that batch normalisation takes its
statistics over both.

    loss = vicreg_loss(first, second)     # [N, D] each: row i of both is group i
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrast.losses import gather_rows
from contrast.objectives.objective import Objective, Targets

INVARIANCE_WEIGHT, VARIANCE_WEIGHT, COVARIANCE_WEIGHT = 25.0, 25.0, 1.0
STANDARD_DEVIATION = 1.0
EPSILON = 1e-4


class VICReg(Objective):
    """Agreement of the anchor and one view, without negatives."""

    needs_other_groups = True
    takes_pairs = True
    defaults = {"head_hidden_dim": 2048, "head_dim": 2048}  # noqa: RUF012 - declared a ClassVar by Objective

    def build_head(self, feature_dim: int) -> nn.Module:
        hidden_dim = self.config.head_hidden_dim
        layers: list[nn.Module] = []
        for width in (feature_dim, hidden_dim):
            layers += [nn.Linear(width, hidden_dim), nn.BatchNorm1d(hidden_dim), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, nn.Linear(hidden_dim, self.config.head_dim, bias=False))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        first, second = outputs.unflatten(0, (-1, targets.num_images)).unbind(1)
        return vicreg_loss(first, second)

    def chance_loss(self) -> float:
        return VARIANCE_WEIGHT * (STANDARD_DEVIATION - math.sqrt(EPSILON))


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """25 times the mean squared difference, 25 times the missing standard deviation, once the squared covariances.

    In a process group the statistics are those of all ranks' rows, with gradient, and the mean of the value over ranks
    is the loss of the whole batch in one process. Computed in float32 whatever the input and the surrounding autocast;
    never synchronises with the host.

    Args:
        first, second: [N, D] of this rank; N is the same on all ranks, and 2 or more over all of them.

    Returns:
        A float32 scalar (float64 for float64 input).
    """
    with torch.autocast(first.device.type, enabled=False):
        dtype = torch.promote_types(first.dtype, torch.float32)
        branches = first.to(dtype), second.to(dtype)
        invariance = F.mse_loss(*branches)
        variance = covariance = torch.zeros((), dtype=dtype, device=first.device)
        for branch in branches:
            rows = gather_rows(branch)
            rows = rows - rows.mean(dim=0)
            deviation = (rows.var(dim=0) + EPSILON).sqrt()
            variance = variance + F.relu(STANDARD_DEVIATION - deviation).mean() / 2
            products = rows.T @ rows / (len(rows) - 1)
            off_diagonal = products.square().sum() - products.diagonal().square().sum()
            covariance = covariance + off_diagonal / rows.shape[1]
        return INVARIANCE_WEIGHT * invariance + VARIANCE_WEIGHT * variance + COVARIANCE_WEIGHT * covariance
