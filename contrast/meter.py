"""What the steps since the last record cost and brought.

meter = Meter(device, images_per_step=512)
with meter.waiting():
    batch = next(batches)
meter.add_step(loss)
figures = meter.take(place)           # mean loss, views/s, share of time spent waiting; starts over
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
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
        self._waits = GpuWaits(device) if device.type == "cuda" else CpuWaits()
        self.waiting = self._waits.waiting
        self.total_waited_seconds = 0.0
        self._since = self.started = time.perf_counter()

    def add_step(self, loss: Tensor) -> None:
        """Counts one step."""
        self._loss_sum += loss.detach()
        self._num_steps += 1

    def take(self, place: Place) -> Figures:
        """The means since the last call (or the start), the loss over all processes; waits for the device."""
        loss = place.mean(self._loss_sum) / self._num_steps
        seconds = time.perf_counter() - self._since
        waited_seconds = self._waits.take()
        self.total_waited_seconds += waited_seconds
        figures = Figures(
            loss=loss,
            views_per_second=self._num_steps * self._images_per_step / seconds,
            wait_share=waited_seconds / seconds,
        )
        self._loss_sum.zero_()
        self._num_steps, self._since = 0, time.perf_counter()
        return figures


class CpuWaits:
    """Seconds that the training thread waited for batches: it does the arithmetic itself."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for one batch."""
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class GpuWaits:
    """Seconds in which a GPU had no step to do because the next batch was not there.

    The training thread runs ahead of a GPU, so that it waits for batches is no loss. What counts is the time on the
    GPU's clock from the end of its last step to the arrival of the batch; none, where the batch came first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for one batch."""
        began = self._mark()
        yield
        self._waits.append((began, self._mark()))

    def take(self) -> float:
        """Seconds since the last call, of steps that are over: the caller has waited for the device."""
        seconds = sum(began.elapsed_time(ended) for began, ended in self._waits) / 1000
        self._waits.clear()
        return seconds

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event
