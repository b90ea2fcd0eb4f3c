"""What counts as waiting for data: on a CPU the thread's own time, on a GPU the time it had nothing to do."""

from __future__ import annotations

import pytest
import torch

import contrast.meter
from contrast.distributed import Place
from contrast.meter import CpuWaits, GpuWaits, Meter

CPU = torch.device("cpu")


class Clock:
    """Stands in for a GPU and its host: an event is stamped when the kernels before it are done."""

    def __init__(self) -> None:
        self.host = self.gpu_is_free_at = 0.0

    def launch(self, seconds: float) -> None:
        self.gpu_is_free_at = max(self.gpu_is_free_at, self.host) + seconds

    def event(self, *, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    """A CUDA event of that clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.stamp = clock, -1.0

    def record(self, stream: None) -> None:
        self.stamp = max(self.clock.host, self.clock.gpu_is_free_at)

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.stamp - self.stamp)


@pytest.mark.parametrize(
    ("batch_seconds", "idle_seconds"),
    [(0.04, 0.04), (0.05, 0.05), (0.07, 0.25)],  # the first batch is waited for in any case; then 9 steps of 0.05 s
)
def test_a_gpu_waits_only_when_it_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, batch_seconds: float, idle_seconds: float
) -> None:
    clock = Clock()
    monkeypatch.setattr(torch.cuda, "Event", clock.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    waits = GpuWaits(torch.device("cuda", 0))
    for step in range(10):
        with waits.waiting():
            clock.host = (step + 1) * batch_seconds  # when the loader has the batch; the host runs ahead of the GPU
        clock.launch(0.05)
    assert waits.take() == pytest.approx(idle_seconds)
    assert waits.take() == 0, "it starts over"


def test_on_a_cpu_all_of_the_threads_waiting_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(contrast.meter.time, "perf_counter", lambda: now)
    waits = CpuWaits()
    for seconds in (1.0, 0.5):
        with waits.waiting():
            now += seconds
        now += 10
    assert waits.take() == 1.5 and waits.take() == 0


def test_figures_are_means_and_start_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(contrast.meter.time, "perf_counter", lambda: now)
    meter, place = Meter(CPU, images_per_step=6), Place(rank=0, world_size=1, device=CPU)
    for loss in (3.0, 5.0):
        with meter.waiting():
            now += 0.5
        now += 1.5
        meter.add_step(torch.tensor(loss))
    figures = meter.take(place)
    assert (figures.loss, figures.views_per_second, figures.wait_share) == (4.0, 3.0, 0.25)
    with meter.waiting():
        now += 2.0
    meter.add_step(torch.tensor(1.0))
    figures = meter.take(place)
    assert (figures.loss, figures.views_per_second, figures.wait_share) == (1.0, 3.0, 1.0)
    assert meter.total_waited_seconds == 3.0
