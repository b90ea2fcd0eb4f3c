"""The folder .work of a dataset that is being rendered: what is to be done, and what has gone wrong so far.

It is there for tasks that meet nowhere but on the disk, and for whoever asks how far they are. Readers of the dataset
ignore it, and finishing the dataset removes it.

    begin_work(folder, WorkPlan(recipe_id=..., render=..., num_groups=4000, shard_size=1000))
    read_plan(folder), read_failures(folder)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.atomic import replacing
from shards.canonical import JSON, first_difference
from shards.manifest import shard_stem
from shards.recipe import RenderSettings
from shards.turns import turn

WORK_FOLDER = ".work"
_PLAN_NAME = "plan.json"
_FAILED_PATTERN = re.compile(r"train-(\d{6,})\.failed\.json")


@dataclass(frozen=True, kw_only=True)
class WorkPlan:
    """What all tasks of one render agree on."""

    recipe_id: str
    render: RenderSettings
    num_groups: int
    shard_size: int

    @property
    def num_shards(self) -> int:
        """Shards of the finished dataset."""
        return -(-self.num_groups // self.shard_size)

    def shard_count(self, index: int) -> int:
        """Groups of a shard; only the last may hold fewer than shard_size."""
        return min(self.shard_size, self.num_groups - index * self.shard_size)

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {**self.__dict__, "render": self.render.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> WorkPlan:
        """The inverse of to_json."""
        return cls(**{**data, "render": RenderSettings.from_json(data["render"])})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An attempt at a shard that came to nothing."""

    index: int
    """The shard's."""
    message: str
    where: str
    """Task, device, process and host."""
    unix_seconds: float


def work_path(directory: Path, name: str) -> Path:
    """Where a file of the work folder lies."""
    return Path(directory) / WORK_FOLDER / name


def begin_work(directory: Path, plan: WorkPlan) -> None:
    """Makes `plan` the folder's and forgets earlier failures. Only for who holds the folder's lock alone."""
    remove_work(directory)
    _write_plan(directory, plan)


def join_work(directory: Path, plan: WorkPlan) -> None:
    """Makes `plan` the folder's, or finds that it is already.

    Raises:
        ValueError: other tasks are at work on another plan.
    """
    with turn(directory):
        found = read_plan(directory)
        if found is None:
            _write_plan(directory, plan)
        elif found != plan:
            difference = first_difference(found.to_json(), plan.to_json())
            raise ValueError(
                f"other tasks are writing {directory} with {difference}: ask for the same, wait for them, "
                "or choose another folder"
            )


def read_plan(directory: Path) -> WorkPlan | None:
    """What is being rendered in the folder; None where nothing is, or where it cannot be read."""
    try:
        return WorkPlan.from_json(json.loads(work_path(directory, _PLAN_NAME).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_failures(directory: Path) -> list[Failure]:
    """All failed attempts so far, by shard and time."""
    failures = []
    for name in list_work(directory):
        if match := _FAILED_PATTERN.fullmatch(name):
            failures += _failures_of(directory, int(match[1]))
    return sorted(failures, key=lambda failure: (failure.index, failure.unix_seconds))


def add_failure(directory: Path, index: int, *, message: str, where: str) -> None:
    """Adds an attempt to the shard's record; only for who has the folder's turn."""
    one_line = " ".join(message.split())
    attempt = Failure(index=index, message=one_line, where=where, unix_seconds=round(time.time(), 3))
    attempts = [asdict(failure) for failure in [*_failures_of(directory, index), attempt]]
    replace_file(_failed_path(directory, index), json.dumps(attempts, indent=1).encode())


def _failures_of(directory: Path, index: int) -> list[Failure]:
    try:
        return [Failure(**attempt) for attempt in json.loads(_failed_path(directory, index).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def list_work(directory: Path) -> list[str]:
    """Names in the work folder, sorted; none where there is no such folder."""
    try:
        return sorted(os.listdir(Path(directory) / WORK_FOLDER))
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_work(directory: Path) -> None:
    """Removes the work folder and all that is in it."""
    shutil.rmtree(Path(directory) / WORK_FOLDER, ignore_errors=True)


def end_work(directory: Path, *, num_groups: int, shard_size: int) -> None:
    """Removes the work folder of a finished dataset, unless tasks are growing it by now.

    Only for who has the folder's turn.
    """
    plan = read_plan(directory)
    if plan is None or (plan.num_groups, plan.shard_size) == (num_groups, shard_size):
        remove_work(directory)


def replace_file(path: Path, data: bytes) -> None:
    """As write_atomically, but without waiting for the disk: nothing in the work folder has to survive a power cut."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _failed_path(directory: Path, index: int) -> Path:
    return work_path(directory, f"{shard_stem(index)}.failed.json")


def _write_plan(directory: Path, plan: WorkPlan) -> None:
    path = work_path(directory, _PLAN_NAME)
    path.parent.mkdir(exist_ok=True)
    replace_file(path, (json.dumps(plan.to_json(), indent=1) + "\n").encode())
