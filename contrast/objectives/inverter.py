"""The generator, inverted: which latent was this image made from, and which class was asked for?

Jahanian et al. 2022, section 3.2: squared error of the latent; for a class-conditional generator also the
cross-entropy of the class. The dataset has to carry the latents (`synthgen render --store-latents`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contrast.heads import ProjectionHead
from contrast.objectives.cross_entropy import class_loss
from contrast.objectives.objective import Objective, Targets


class Inverter(Objective):
    """Mean squared error of every image's own latent, plus the cross-entropy of its class where there are classes."""

    needs_latents = True
    is_of_pairs = False

    def build_head(self, feature_dim: int) -> nn.Module:
        assert self.facts.latent_dim is not None
        output_dim = self.facts.latent_dim + len(self.facts.classes)
        return ProjectionHead(feature_dim, hidden_dim=self.config.head_hidden_dim, output_dim=output_dim)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        assert targets.latents is not None and self.facts.latent_dim is not None
        with torch.autocast(outputs.device.type, enabled=False):
            outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
            guess, logits = outputs.split([self.facts.latent_dim, len(self.facts.classes)], dim=1)
            loss = F.mse_loss(guess, targets.latents.flatten(0, 1).to(guess.dtype))
            return loss + class_loss(logits, targets) if self.facts.classes else loss

    def chance_loss(self) -> float:
        return self.facts.latent_variance + (math.log(len(self.facts.classes)) if self.facts.classes else 0.0)
