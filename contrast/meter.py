"""What the steps since the last record cost and brought.

meter = Meter(device, images_per_step=512)
meter.add_step(loss, waited_seconds=0.01)
figures = meter.take(place)           # mean loss, views/s, share of time spent waiting; starts over
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from contrast.distributed import Place


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Means over some steps."""

    loss: float
    views_per_second: float
    wait_share: float


class Meter:
    """Sums on the device; only `take` waits for it."""

    def __init__(self, device: torch.device, *, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._loss_sum = torch.zeros((), device=device)
        self._num_steps = 0
        self._waited_seconds = self.total_waited_seconds = 0.0
        self._since = self.started = time.perf_counter()

    def add_step(self, loss: Tensor, *, waited_seconds: float) -> None:
        """Counts one step."""
        self._loss_sum += loss.detach()
        self._num_steps += 1
        self._waited_seconds += waited_seconds
        self.total_waited_seconds += waited_seconds

    def take(self, place: Place) -> Figures:
        """The means since the last call (or the start), the loss over all processes; waits for the device."""
        loss = place.mean(self._loss_sum) / self._num_steps
        seconds = time.perf_counter() - self._since
        figures = Figures(
            loss=loss,
            views_per_second=self._num_steps * self._images_per_step / seconds,
            wait_share=self._waited_seconds / seconds,
        )
        self._loss_sum.zero_()
        self._num_steps, self._waited_seconds, self._since = 0, 0.0, time.perf_counter()
        return figures
