"""Where and how a run is carried out, and what a call of the trainer did; neither is part of what the run is.

options = RunOptions(device="cuda:1", reader="ffcv", num_workers=8)
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from contrast.batches import MEMORY_BYTES, NUM_WORKERS
from shards.canonical import JSON
from shards.numbers import check_flag, check_number, check_whole


def check_threads(num_threads: int | None) -> int | None:
    """The number of threads, where one is given.

    Raises:
        ValueError: more than a machine can be asked for: OpenMP ends the process where they fail.
    """
    if num_threads is None:
        return None
    count, most = check_whole("threads", num_threads, 1), max(64, 4 * (os.cpu_count() or 1))
    if count > most:
        raise ValueError(f"threads {count}: this machine has {os.cpu_count()} cores; give {most} or fewer")
    return count


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how a run is carried out; none of it is part of what the run is."""

    device: str = "auto"
    num_threads: int | None = None
    """Threads of a CPU operation; torch's own choice when None."""
    reader: str = "tar"
    """See contrast.readers."""
    cache: str | Path | None = None
    """Folder for shards that are fetched; one in the user's cache when None."""
    cache_bytes: int | None = None
    """Size at which that folder drops the shards not used for longest; None keeps all."""
    beton: str | Path | None = None
    """FFCV's file; groups.beton in the dataset's folder when None."""
    num_workers: int = NUM_WORKERS
    """Batches decoded at a time, each by a process; by a thread for ffcv and for shards at an address."""
    memory_bytes: int = MEMORY_BYTES
    """Decoded images are kept when all of them fit this."""
    log_every: int = 10
    """Steps between two records; checkpoints fall on these steps."""
    checkpoint_seconds: float = 60.0
    """Shortest time between two checkpoints; there is always one at the end."""
    compile: bool = False
    """Compile the augmentation when it is first used, half a minute; the images differ in their last bits."""
    tensorboard: bool = False
    knn_every: int | None = None
    """Steps between two kNN scores of the encoder, a multiple of log_every; none when None."""
    knn_data: str | None = None
    """Labelled images of those scores, as contrast eval takes them."""
    knn_data_root: str | Path | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        settled: dict[str, object] = {
            "device": str(self.device),
            "num_threads": check_threads(self.num_threads),
            "num_workers": check_whole("workers", self.num_workers, 1),
            "log_every": check_whole("log_every", self.log_every, 1),
            "memory_bytes": check_whole("memory_bytes", self.memory_bytes, 0),
            "checkpoint_seconds": check_number("checkpoint_seconds", self.checkpoint_seconds, 0, such_as="60"),
        }
        if self.knn_every is not None:
            settled["knn_every"] = check_whole("knn_every", self.knn_every, 1)
        if self.cache_bytes is not None:
            settled["cache_bytes"] = check_whole("cache_bytes", self.cache_bytes, 1)
        if self.knn_data is not None:
            settled["knn_data"] = str(self.knn_data)
        for name in ("compile", "tensorboard", "quiet"):
            settled[name] = check_flag(name, getattr(self, name))
        for name, value in settled.items():
            object.__setattr__(self, name, value)
        if (self.knn_every is None) != (self.knn_data is None):
            raise ValueError("online kNN: give both --knn-every, such as 500, and --knn-data, such as cifar10")
        if self.knn_every is not None and self.knn_every % self.log_every:
            raise ValueError(
                f"--knn-every {self.knn_every}: give a multiple of {self.log_every}, the steps of a record"
            )


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a call of `train_encoder` did."""

    run: str
    steps: int
    """All steps of the run; those of earlier calls included."""
    loss: float
    """Mean over the last recorded steps."""
    chance_loss: float
    """The loss of an encoder that knows nothing."""
    steps_now: int = 0
    """Steps of this call: 0 where the run was finished already. The same holds for the figures below."""
    views_per_second: float = 0.0
    """Images trained on per second in this call, checkpoints included."""
    wait_share: float = 0.0
    """Share of this call's time spent waiting for data."""
    seconds: float = 0.0
    """Time of this call's steps."""

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return asdict(self)
