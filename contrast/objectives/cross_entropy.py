"""A classifier of the labels that the generator was told: supervised learning without a labelled photograph."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrast.objectives.objective import Objective, Targets


class CrossEntropy(Objective):
    """Softmax cross-entropy of the class over a linear layer, for every image of a group."""

    needs_classes = True
    is_of_pairs = False

    def build_head(self, feature_dim: int) -> nn.Module:
        return nn.Linear(feature_dim, len(self.facts.classes))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        with torch.autocast(outputs.device.type, enabled=False):
            return class_loss(outputs, targets)

    def chance_loss(self) -> float:
        return math.log(len(self.facts.classes))


def class_loss(logits: Tensor, targets: Targets) -> Tensor:
    """Mean cross-entropy of [b * num_images, classes] logits, in float32 at least."""
    classes = targets.classes.repeat_interleave(targets.num_images)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), classes)
