"""Runs that differ in their seed alone as one: mean and standard deviation of every score.

averages = average_runs(comparison.runs, comparison.differing)
averages[0].scores[source, "kNN 10", "trained"].text            # "54.5 ± 0.6"
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from contrast.compared_runs import ComparedRun, ScoreKey
from contrast.evaluation.tables import Cell
from shards.canonical import JSON, canonical_json

SEED = "seed"
"""The setting that is averaged over: of initial weights, order and augmentation. The dataset's is recipe.seed."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What several seeds gave."""

    values: tuple[float, ...]
    digits: int
    """Behind the point, in a table."""
    mark: str = ""
    """Behind the number: * where a classifier of any seed did not converge."""

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds, with n - 1; 0 for one of them, which tells nothing about it."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def text(self) -> str:
        """As a table shows it: 54.5 ± 0.6, or 54.6 of one seed."""
        spread = f" ± {self.deviation:.{self.digits}f}" if len(self.values) > 1 else ""
        return f"{self.mean:.{self.digits}f}{spread}{self.mark}"


@dataclass(frozen=True, kw_only=True)
class Average:
    """Runs whose settings are the same but for the seed."""

    runs: tuple[ComparedRun, ...]
    settings: dict[str, JSON]
    """Those in which it differs from the other averages."""
    scores: dict[ScoreKey, Spread]


def average_runs(runs: Sequence[ComparedRun], differing: Sequence[str]) -> tuple[Average, ...]:
    """The runs in groups that differ in their seed alone, in the order in which the first of each was given.

    Args:
        differing: the settings in which any of the runs differ.
    """
    names = [name for name in differing if name != SEED]
    grouped: dict[str, list[ComparedRun]] = {}
    for run in runs:
        grouped.setdefault(canonical_json({name: run.settings.get(name) for name in names}), []).append(run)
    averages = []
    for alike in grouped.values():
        cells: dict[ScoreKey, list[Cell]] = {}
        for run in alike:
            for key, cell in run.scores.items():
                cells.setdefault(key, []).append(cell)
        averages.append(
            Average(
                runs=tuple(alike),
                settings={name: alike[0].settings.get(name) for name in names},
                scores={
                    key: Spread(
                        values=tuple(cell.value for cell in found),
                        digits=found[0].digits,
                        mark="*" if any(cell.text.endswith("*") for cell in found) else "",
                    )
                    for key, found in cells.items()
                },
            )
        )
    return tuple(averages)
