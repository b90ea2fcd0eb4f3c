"""Trains runs that kill themselves right after their second checkpoint, each in a forked process.

python killed_trainer.py JOBS.json        [{"config": …, "shards": DIR, "mix": DIR or null, "out": DIR}, …]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import contrast.checkpoint
import contrast.training
from contrast.config import TrainConfig


def train_and_die(job: dict[str, Any]) -> None:
    saved = 0
    save = contrast.checkpoint.save_checkpoint

    def save_twice(*arguments: Any) -> None:
        nonlocal saved
        save(*arguments)
        saved += 1
        if saved == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    contrast.checkpoint.save_checkpoint = save_twice
    contrast.training.train_encoder(
        TrainConfig.from_json(job["config"]),
        shards=job["shards"],
        mix=job["mix"],
        out=job["out"],
        options=contrast.training.RunOptions(device="cpu", quiet=True, log_every=2, checkpoint_seconds=0),
    )


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    for job in json.loads(jobs.read_text()):
        child = os.fork()
        if child == 0:
            try:
                train_and_die(job)
            finally:
                os._exit(1)  # it should be dead by now
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, (job["out"], status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
