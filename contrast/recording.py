"""What happens between the steps of a run: figures, progress, scores on the way, checkpoints, and stopping in order.

with Recording(run, record, network, optimizer, place=place, options=options, …) as recording:
    for step in range(first_step, config.steps):
        with recording.waiting():
            batch = next(batches)
        ...
        if recording.after_step(step, loss, learning_rate=learning_rate):
            break
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from torch.optim import Optimizer

from contrast.checkpoint import save_run
from contrast.distributed import Place
from contrast.evaluation.online import OnlineKnn
from contrast.interrupts import postponed_interrupt
from contrast.meter import Figures, Meter
from contrast.network import TrainedNetwork
from contrast.run_folder import RunRecord, record_environment
from contrast.run_options import RunOptions, TrainSummary
from contrast.runlog import RunLog, rewind_metrics
from shards.progress import Progress

_STOPPING = "stopping after the next record, to keep what was learnt; Ctrl-C again stops at once"


class Recording:
    """The record of one call's steps; in several processes the first one keeps it, and all of them wait together.

    Args:
        progress: entered and left with this.
        images_per_step: of all processes.

    Raises:
        ValueError: the labelled images of the scores on the way, or TensorBoard, are not there.
    """

    def __init__(
        self,
        run: Path,
        record: RunRecord,
        network: TrainedNetwork,
        optimizer: Optimizer,
        *,
        place: Place,
        options: RunOptions,
        progress: Progress,
        first_step: int,
        images_per_step: int,
        chance_loss: float,
    ) -> None:
        self._run, self._record, self._network, self._optimizer = run, record, network, optimizer
        self._place, self._options, self._progress = place, options, progress
        self._first_step, self._last_step = first_step, record.config.steps
        self._images_per_step, self._chance_loss = images_per_step, chance_loss
        self._online = self._open_online_knn()
        self._log: RunLog | None = None
        self._figures: Figures | None = None

    def _open_online_knn(self) -> OnlineKnn | None:
        options = self._options
        if options.knn_every is None or options.knn_data is None or not self._place.is_first:
            return None
        return OnlineKnn(
            every=options.knn_every,
            last_step=self._last_step,
            data=options.knn_data,
            data_root=options.knn_data_root,
            trained_on=self._record.trained_on,
            device=self._place.device,
            precision=self._record.config.precision,
        )

    def __enter__(self) -> Recording:
        with ExitStack() as stack:
            self._enter(stack)
            self._stack = stack.pop_all()
        return self

    def _enter(self, stack: ExitStack) -> None:
        if self._place.is_first:
            rewind_metrics(self._run, step=self._first_step)
            record_environment(
                self._run,
                first_step=self._first_step,
                device=str(self._place.device),
                num_threads=torch.get_num_threads(),
                compiled=self._options.compile,
                world_size=self._place.world_size,
            )
            log = RunLog(self._run, tensorboard=self._options.tensorboard, first_step=self._first_step)
            self._log = stack.enter_context(log)
        stack.enter_context(self._progress)
        self._meter = Meter(self._place.device, images_per_step=self._images_per_step)
        self._last_saved = self._meter.started
        self._interrupted = lambda: False
        if self._place.world_size == 1:  # several processes would stop at different steps, and wait for each other
            self._interrupted = stack.enter_context(postponed_interrupt(_STOPPING))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises KeyboardInterrupt where after_step said to stop."""
        self._stack.__exit__(kind, error, trace)

    def waiting(self) -> AbstractContextManager[None]:
        """Inside, time counts as spent waiting for data."""
        return self._meter.waiting()

    def after_step(self, step: int, loss: Tensor, *, learning_rate: float) -> bool:
        """Every so often records (this waits for the device) and saves a checkpoint; True: stop now.

        Raises:
            ValueError: the loss or the weights are no numbers any more.
        """
        self._meter.add_step(loss)
        done = step + 1
        if done % self._options.log_every and done != self._last_step:
            self._progress.advance(1)
            return False
        figures = self._figures = self._meter.take(self._place)
        if not math.isfinite(figures.loss):
            raise ValueError(f"the loss is {figures.loss} at step {done}: train with a smaller --learning-rate")
        knn = {} if self._online is None else self._online.score_at(done, self._network.encoder)
        self._progress.advance(
            1,
            loss=f"{figures.loss:.3f} (chance {self._chance_loss:.3f})",
            views=f"{figures.views_per_second:.0f}/s",
            waiting=f"{figures.wait_share:.0%}",
            **{name: f"{score:.1f}%" for name, score in knn.items()},
        )
        if self._log is None:
            return False
        self._log.write(
            {
                "step": done,
                "groups": done * self._record.config.batch_size,
                "loss": figures.loss,
                "chance_loss": self._chance_loss,
                "learning_rate": learning_rate,
                "views_per_second": round(figures.views_per_second, 1),
                "wait_share": round(figures.wait_share, 4),
                **knn,
            }
        )
        stopping = self._interrupted()
        is_due = time.perf_counter() - self._last_saved >= self._options.checkpoint_seconds
        if is_due or stopping or done == self._last_step:
            save_run(self._run, self._record, self._network, self._optimizer, step=done, loss=figures.loss)
            self._last_saved = time.perf_counter()
        return stopping

    def summary(self) -> TrainSummary:
        """What this call did."""
        assert self._figures is not None
        seconds, steps = time.perf_counter() - self._meter.started, self._last_step - self._first_step
        return TrainSummary(
            run=str(self._run),
            steps=self._last_step,
            loss=self._figures.loss,
            chance_loss=self._chance_loss,
            steps_now=steps,
            views_per_second=steps * self._images_per_step / seconds,
            wait_share=self._meter.total_waited_seconds / seconds,
            seconds=seconds,
        )
