"""The linear probe: one linear layer on frozen features, trained by SGD, its learning rate picked on training labels.

    probe = linear_probe(train_features, train_labels, test_features, test_labels)
    probe.accuracy, probe.learning_rate

A head for every learning rate of a grid is trained in one pass over the cached features: their weights lie side by side
in one matrix, so nine heads cost one product. Nine tenths of the training images fit, one tenth picks the rate, then
one head of that rate is trained on all of them. The test images are touched once, and the encoder never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from contrast.evaluation.holdout import hold_out_tenth
from contrast.orders import draw_order

LEARNING_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Peaks; each falls to zero along half a cosine. Features are standardised, so one grid suits encoders of all kinds."""
MOMENTUM = 0.9
BATCH_SIZE = 256


def count_steps(steps_per_epoch: int) -> int:
    """Steps of a pass: fifty epochs, but from 300 to 2,000 steps, or ten epochs where those are more."""
    return max(300, min(50 * steps_per_epoch, 2000), 10 * steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A probe's score and how it was come by."""

    accuracy: float
    """Share in [0, 1] of the test images."""
    learning_rate: float
    picked_accuracy: float
    """Of the picked learning rate, on the held-out tenth of the training images."""


def linear_probe(
    train_features: ndarray,
    train_labels: ndarray,
    test_features: ndarray,
    test_labels: ndarray,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    num_steps: int | None = None,
    device: torch.device | None = None,
) -> LinearProbe:
    """Trains linear heads on standardised features and scores the one whose learning rate did best.

    Args:
        num_steps: of each of the two passes; see `count_steps` when None.
        device: where the heads are trained; the CPU when None.

    Raises:
        ValueError: there are too few training images to hold some out; see `hold_out_tenth`.
    """
    place = device or torch.device("cpu")
    num_classes = int(train_labels.max()) + 1
    held_out = hold_out_tenth(train_labels)
    fitted = train_heads(
        train_features[~held_out],
        train_labels[~held_out],
        learning_rates=learning_rates,
        num_classes=num_classes,
        num_steps=num_steps,
        device=place,
    )
    scored = fitted.accuracies(train_features[held_out], train_labels[held_out])
    best = max(range(len(learning_rates)), key=lambda head: (scored[head], -learning_rates[head]))
    final = train_heads(
        train_features,
        train_labels,
        learning_rates=[learning_rates[best]],
        num_classes=num_classes,
        num_steps=num_steps,
        device=place,
    )
    return LinearProbe(
        accuracy=final.accuracies(test_features, test_labels)[0],
        learning_rate=learning_rates[best],
        picked_accuracy=scored[best],
    )


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Linear classifiers side by side, and the standardisation that they share."""

    mean: Tensor
    scale: Tensor
    """[dim] each."""
    weight: Tensor
    """[dim, heads, classes]"""
    bias: Tensor
    """[heads, classes]"""

    @torch.inference_mode()
    def accuracies(self, features: ndarray, labels: ndarray) -> list[float]:
        """Share in [0, 1] of right answers, by head."""
        right = np.zeros(self.bias.shape[0], dtype=np.int64)
        for first in range(0, len(features), 1000):
            batch = torch.from_numpy(features[first : first + 1000]).to(self.mean.device)
            logits = _logits((batch - self.mean) / self.scale, self.weight, self.bias)
            wanted = torch.from_numpy(labels[first : first + 1000]).to(logits.device)
            right += (logits.argmax(dim=2) == wanted[:, None]).sum(dim=0).cpu().numpy()
        return [float(count) / len(features) for count in right]


@torch.inference_mode()
def train_heads(
    features: ndarray,
    labels: ndarray,
    *,
    learning_rates: Sequence[float],
    num_classes: int,
    num_steps: int | None = None,
    device: torch.device,
) -> Heads:
    """One head per learning rate, all from zero weights and on the same batches: SGD with momentum on cross-entropy.

    The order of the images is a permutation per epoch, a function of their number alone. The gradient of softmax
    cross-entropy is written out, since it is the same product for all heads: x^T (p - y) / batch.
    """
    batch_size = min(BATCH_SIZE, len(features))
    steps_per_epoch = len(features) // batch_size
    total = count_steps(steps_per_epoch) if num_steps is None else num_steps
    rates = torch.tensor(learning_rates, device=device)[:, None]  # [heads, 1]
    inputs = torch.from_numpy(features).to(device)
    mean, scale = inputs.mean(dim=0), inputs.std(dim=0, correction=0)
    scale = torch.where(scale < 1e-6, 1.0, scale)  # a feature that never changes says nothing
    inputs = (inputs - mean) / scale
    targets = torch.from_numpy(labels).to(device)
    weight = torch.zeros(inputs.shape[1], len(learning_rates), num_classes, device=device)
    bias = torch.zeros(len(learning_rates), num_classes, device=device)
    weight_momentum, bias_momentum = torch.zeros_like(weight), torch.zeros_like(bias)
    order = torch.empty(0)
    for step in range(total):
        epoch, position = divmod(step, steps_per_epoch)
        if position == 0:
            order = torch.from_numpy(draw_order(len(features), seed=0, epoch=epoch)).to(device)
        rows = order[position * batch_size : (position + 1) * batch_size]
        batch = inputs[rows]
        error = _logits(batch, weight, bias).softmax(dim=2)  # [b, heads, classes]
        error[torch.arange(batch_size, device=device), :, targets[rows]] -= 1
        error /= batch_size
        weight_momentum.mul_(MOMENTUM).add_((batch.T @ error.flatten(1)).view_as(weight))
        bias_momentum.mul_(MOMENTUM).add_(error.sum(dim=0))
        decay = 0.5 * (1 + math.cos(math.pi * step / total))
        weight.sub_(weight_momentum * (decay * rates))
        bias.sub_(bias_momentum * (decay * rates))
    return Heads(mean=mean, scale=scale, weight=weight, bias=bias)


def _logits(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[b, heads, classes]"""
    return (inputs @ weight.flatten(1)).view(len(inputs), *bias.shape) + bias
