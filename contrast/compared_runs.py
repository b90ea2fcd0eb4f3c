"""What is known of runs that are compared: settings, curve and scores of each, read from their folders.

runs = read_runs(["runs/a", "runs/b"])
differing_settings(runs)                          # ("objective", "trained_on.num_groups")
runs[0].scores[source, "kNN 10", "trained"]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contrast.evaluation.results import Evaluation, read_evaluation
from contrast.evaluation.tables import (
    Cell,
    Source,
    columns_of_groups,
    columns_of_test,
    source_of_groups,
    source_of_test,
)
from contrast.run_folder import RunRecord, read_run
from contrast.runlog import read_metrics
from shards.canonical import JSON

ScoreKey = tuple[Source, str, str]
"""What a score was taken on, the head of its column, and its row: trained, random or pixels."""


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """What is known of one run."""

    run: str
    name: str
    """The last part of its path where that tells it from the others, else all of it."""
    settings: dict[str, JSON]
    """Configuration and what it was trained on, flat: augment.jitter, trained_on.num_groups."""
    metrics: list[dict[str, float]]
    evaluation: Evaluation | None

    @property
    def scores(self) -> dict[ScoreKey, Cell]:
        """Of all rows, in the order of the tables of `contrast eval`."""
        if self.evaluation is None:
            return {}
        columns = [(source_of_test(test), column) for test in self.evaluation.tests for column in columns_of_test(test)]
        if (groups := self.evaluation.groups) is not None:
            columns += [(source_of_groups(groups), column) for column in columns_of_groups(groups)]
        return {(source, head, row): cell for source, (head, cells) in columns for row, cell in cells.items()}


def read_runs(runs: Sequence[str | Path]) -> tuple[ComparedRun, ...]:
    """Reads the runs' folders.

    Raises:
        ValueError: there are fewer than two, one is given twice, or a folder is no run.
        DamageError: a file of a run is not as it was written.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if len(folders) < 2:
        raise ValueError("give two runs or more to compare")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is given twice: give every run once")
    last_parts = [folder.resolve().name for folder in folders]
    return tuple(
        ComparedRun(
            run=str(folder),
            name=last_part if last_parts.count(last_part) == 1 else str(folder),
            settings=_flatten(read_run(folder)),
            metrics=read_metrics(folder),
            evaluation=read_evaluation(folder),
        )
        for folder, last_part in zip(folders, last_parts, strict=True)
    )


def differing_settings(runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    """Settings that are not the same in all of the runs."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return tuple(name for name in names if any(run.settings.get(name) != runs[0].settings.get(name) for run in runs))


def _flatten(record: RunRecord) -> dict[str, JSON]:
    flat: dict[str, JSON] = {}

    def walk(prefix: str, value: JSON) -> None:
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            for name, item in value.items():
                walk(f"{prefix}.{name}" if prefix else name, item)
        else:
            flat[prefix] = value

    walk("", record.config.to_json())
    groups = record.trained_on.settings()
    del groups["class_names"]  # the recipe has the classes
    views = groups["recipe"]["views"]
    groups["recipe"]["num_views"] = len(views)
    if views and all(view == views[0] for view in views):  # as they usually are
        groups["recipe"]["views"] = views[0]
    walk("trained_on", groups)
    return flat
