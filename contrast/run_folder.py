"""The folder of a run: one job at a time, one configuration for good, and everything needed to read it later.

RUN/config.json        the configuration, and which groups it was trained on
RUN/environment.json   versions and hardware of every process that worked on it, in order
RUN/metrics.jsonl      loss and speed over the steps
RUN/checkpoint.pt      the newest state
RUN/evaluate.json      the newest scores (contrast eval)
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contrast.config import TrainConfig
from contrast.runlog import METRICS_NAME
from contrast.trained_on import TrainedOn
from shards.atomic import remove_temporary_files, write_atomically
from shards.canonical import JSON, first_difference
from shards.cpu import cpu_name
from shards.errors import DamageError
from shards.locks import read_holder, try_lock, write_holder

CONFIG_NAME = "config.json"
CHECKPOINT_NAME = "checkpoint.pt"
ENVIRONMENT_NAME = "environment.json"
EVALUATION_NAME = "evaluate.json"
LOCK_NAME = ".lock"
FORMAT = 2
"""Of a run's folder. It grows, too, when the same configuration comes to mean other steps."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What RUN/config.json says."""

    config: TrainConfig
    trained_on: TrainedOn

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {
            "format": FORMAT,
            "trained_on": self.trained_on.to_json(),
            "config": self.config.to_json(),
        }


def read_run(run: Path) -> RunRecord:
    """Reads RUN/config.json.

    Raises:
        ValueError: the folder is not a run, or of another version.
        DamageError: the file is not as it was written.
    """
    path = run / CONFIG_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(
                f"{path} is of format {data['format']}, this version reads {FORMAT}: use the version of the "
                "package that wrote it, or train anew"
            )
        config, trained_on = TrainConfig.from_json(data["config"]), TrainedOn.from_json(data["trained_on"])
        return RunRecord(config=config, trained_on=trained_on)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{run} is not a run (no {CONFIG_NAME}): give the folder of contrast train --out") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{path} was altered ({type(error).__name__}: {error}); restore it or train again") from error


def refuse_own_file(out: Path) -> None:
    """Raises ValueError where `out`, to be written, is one of the files that make up a run."""
    own = (CONFIG_NAME, ENVIRONMENT_NAME, METRICS_NAME, CHECKPOINT_NAME, EVALUATION_NAME, LOCK_NAME)
    if out.name in own and (out.parent / CONFIG_NAME).exists():
        raise ValueError(f"{out} is part of a run: give another file as --out")


@contextmanager
def open_run(run: Path, record: RunRecord) -> Iterator[None]:
    """Makes `run` this job's own folder of this record while the context lasts: a new one, or the one that was begun.

    A run that ended before its first checkpoint binds nobody: it would begin at step 0 anyway, so the folder takes the
    new configuration. The lock goes with the process, however it ends.

    Raises:
        ValueError: it is a run of another configuration, naming the field, or holds other files, or another job has it.
    """
    _check_folder(run)
    run.mkdir(parents=True, exist_ok=True)
    with _lock(run):
        remove_temporary_files(run)
        if _has_state(run):
            _check_record(run, record)
        else:
            write_atomically(run / CONFIG_NAME, _json_bytes(record.to_json()))
        yield


def _check_folder(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise ValueError(f"{run} is a file: choose a folder")
    if run.is_dir() and not (run / CONFIG_NAME).exists():
        foreign = sorted(path.name for path in run.iterdir() if path.name != LOCK_NAME and path.suffix != ".tmp")
        if foreign:
            raise ValueError(f"{run} holds other files ({foreign[0]}, …) and is not a run: choose a new folder")


def _has_state(run: Path) -> bool:
    """Whether a configuration stands here that weights or scores belong to."""
    return (run / CONFIG_NAME).exists() and any((run / name).exists() for name in (CHECKPOINT_NAME, EVALUATION_NAME))


def _check_record(run: Path, record: RunRecord) -> None:
    here = read_run(run)
    difference = here.trained_on.difference(record.trained_on)
    difference = difference or first_difference(here.config.to_json(), record.config.to_json())
    if difference is not None:
        raise ValueError(
            f"{run} is a run of another configuration ({difference}): choose another --out or ask for the same"
        )


@contextmanager
def _lock(run: Path) -> Iterator[None]:
    path = run / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not try_lock(descriptor, fcntl.LOCK_EX, path):
            raise ValueError(
                f"another job ({read_holder(descriptor)}) is working on {run}: wait for it, stop it, or choose "
                "another --out"
            )
        write_holder(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def recorded_config(run: Path) -> TrainConfig | None:
    """The configuration of the run in this folder; None where there is none, or it ended before a checkpoint."""
    return read_run(run).config if _has_state(run) else None


def record_environment(
    run: Path, *, first_step: int, device: str, num_threads: int, compiled: bool, world_size: int
) -> None:
    """Adds this process's versions and hardware to RUN/environment.json."""
    import torch

    entries = [
        *(read_environment(run) or []),
        {
            "first_step": first_step,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "platform": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name(),
            "num_threads": num_threads,
            "compiled": compiled,
            "num_processes": world_size,
        },
    ]
    write_atomically(run / ENVIRONMENT_NAME, _json_bytes(entries))


def read_environment(run: Path) -> list[JSON] | None:
    """What RUN/environment.json says; None where there is none.

    Raises:
        DamageError: it is not as it was written.
    """
    path = run / ENVIRONMENT_NAME
    if not path.exists():
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError("no list of starts")
    except (ValueError, RecursionError) as error:
        raise DamageError(f"{path} is not as it was written ({error}): remove it, nothing depends on it") from error
    return entries


def _json_bytes(data: JSON) -> bytes:
    return (json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()
