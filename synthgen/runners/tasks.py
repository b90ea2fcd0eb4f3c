"""One job cut into tasks that know nothing of each other: task i of k renders shards i, i + k, i + 2k, …

Any task may be repeated, at any time and beside itself: shards that are done are left alone, and the task that finds
all of them done finishes the dataset.

    share = task_share(None, None, os.environ)  # of a Slurm array
    mine = share.of(shards)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from synthgen.plan import ShardPlan


@dataclass(frozen=True, kw_only=True)
class TaskShare:
    """Task `index` of `count`."""

    index: int
    count: int
    origin: str
    """Where the two numbers are from, for messages."""

    @property
    def label(self) -> str:
        """As messages and claims name it."""
        return f"{self.index} of {self.count}"

    def of(self, shards: Iterable[ShardPlan]) -> tuple[ShardPlan, ...]:
        """Those of the shards that are this task's, in the given order."""
        return tuple(shard for shard in shards if shard.index % self.count == self.index)


def task_share(index: int | None, count: int | None, environment: Mapping[str, str]) -> TaskShare | None:
    """The task that this process is: as given, else as an array of Slurm says; None where there is one task only.

    Raises:
        ValueError: half of it is given, or the array's numbers do not run from its first to its last without a gap.
    """
    if (index is None) != (count is None):
        given, lacking = ("task-index", "task-count") if count is None else ("task-count", "task-index")
        raise ValueError(f"{given} is given without {lacking}: give both")
    if index is not None and count is not None:
        return TaskShare(index=index, count=count, origin="--task-index")
    if "SLURM_ARRAY_TASK_ID" not in environment or "SLURM_ARRAY_TASK_COUNT" not in environment:
        return None
    number = {
        name: int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", "0"), ("COUNT", "1"), ("MIN", "0"), ("STEP", "1"))
    }
    position, beside = divmod(number["ID"] - number["MIN"], number["STEP"])
    if beside or not 0 <= position < number["COUNT"]:
        raise ValueError(
            f"task {number['ID']} of an array of {number['COUNT']} from {number['MIN']} on: its numbers have gaps, so "
            "which part is meant cannot be told; give --task-index and --task-count"
        )
    return TaskShare(index=position, count=number["COUNT"], origin="SLURM_ARRAY_TASK_ID")
