"""Scores as tables: the same columns for a terminal, a page and a comparison of runs.

print(format_tables(evaluation))
columns_of_test(evaluation.tests[0])         # [("kNN 10", {"trained": Cell("54.7", 54.71, 1), ...}), ...]
name_sources([source_of_test(test) for test in evaluation.tests])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from contrast.evaluation.results import ROW_TITLES, Evaluation, GroupScores, TestScores
from shards.console import format_table
from shards.quantities import format_things


class Cell(NamedTuple):
    """A score as a table shows it, and as a number."""

    text: str
    value: float
    digits: int
    """Behind the point."""


Column = tuple[str, dict[str, Cell]]
"""A head, and the cell of every row."""

Source = tuple[str, ...]
"""All that decides what scores were taken on; the first part is its short name."""


def columns_of_test(test: TestScores) -> list[Column]:
    """The columns that a test's scores have: accuracies in percent, then RankMe."""
    rows = test.scores.items()
    first = test.scores["trained"]
    columns: list[Column] = []
    for k in first.knn_by_k or ():
        columns.append((f"kNN {k}", {row: _cell((score.knn_by_k or {})[k]) for row, score in rows}))
    if first.linear is not None:
        columns.append(("linear", {row: _cell(score.linear) for row, score in rows}))
    if first.logistic is not None:
        after = {row: "" if score.logistic_converged else "*" for row, score in rows}
        columns.append(("logistic", {row: _cell(score.logistic, after=after[row]) for row, score in rows}))
    for shots in first.fewshot or ():
        few = {row: (score.fewshot or {})[shots] for row, score in rows}
        cells = {row: _cell(one.mean, after=f" ± {one.interval:.1f}") for row, one in few.items()}
        columns.append((f"{shots}-shot", cells))
    if first.rankme is not None:
        columns.append(("RankMe", {row: _cell(score.rankme) for row, score in rows}))
    return columns


def columns_of_groups(groups: GroupScores) -> list[Column]:
    """The columns that the groups' scores have."""
    rows = groups.scores.items()
    first = groups.scores["trained"]
    columns: list[Column] = []
    if first.lidar is not None:
        columns.append(("LiDAR", {row: _cell(score.lidar) for row, score in rows}))
    for kind in first.alignment or ():
        cells = {row: _cell((score.alignment or {})[kind], digits=3) for row, score in rows}
        columns.append((f"alignment {kind}", cells))
    if first.uniformity is not None:
        columns.append(("uniformity", {row: _cell(score.uniformity, digits=3) for row, score in rows}))
    return columns


def _cell(value: float | None, *, digits: int = 1, after: str = "") -> Cell:
    assert value is not None  # all rows have the scores that one of them has
    return Cell(f"{value:.{digits}f}{after}", value, digits)


def source_of_test(test: TestScores) -> Source:
    """Two tests have the same where they used the same images, labels and classes."""
    return (
        f"{test.data} ({test.num_test} images, {test.num_train} labels)",
        f"tested on {test.evaluated_on}",
        f"labels from {test.trained_with}",
        f"{test.num_classes} classes",
        f"images {test.content_sha256[:12]}",
    )


def source_of_groups(groups: GroupScores) -> Source:
    """Two records have the same where they looked at the same groups and as many images of each."""
    return (
        f"groups of {groups.dataset}",
        f"groups {_range_of(groups)}",
        format_things(groups.num_images, "image") + " each",
        f"recipe {groups.recipe_id[:12]}",
    )


def name_sources(sources: Iterable[Source]) -> dict[Source, str]:
    """A name for each: the short one, and after it only what tells it from others of that short name."""
    given = tuple(dict.fromkeys(sources))
    names = {}
    for source in given:
        rivals = [other for other in given if other[0] == source[0]]
        telling = [part for place, part in enumerate(source) if any(other[place] != part for other in rivals)]
        names[source] = ", ".join([source[0], *telling])
    return names


def format_tables(evaluation: Evaluation) -> str:
    """The scores as plain text, with what they were taken on."""
    blocks = []
    for test in evaluation.tests:
        lines = [f"tested on   {test.evaluated_on}, {test.num_classes} classes", f"labels from {test.trained_with}"]
        lines += [f"note        {note}" for note in test.notes]
        lines += ["", *_format_columns("top-1 accuracy, %", list(test.scores), columns_of_test(test))]
        if any(score.logistic_converged is False for score in test.scores.values()):
            lines.append("* logistic regression not converged")
        blocks.append("\n".join(lines))
    if evaluation.groups is not None:
        groups = evaluation.groups
        lines = [
            f"groups      {_range_of(groups)} of {groups.dataset}, {format_things(groups.num_images, 'image')} each"
        ]
        lines += [f"note        {note}" for note in groups.notes]
        lines += ["", *_format_columns("", list(groups.scores), columns_of_groups(groups))]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _range_of(groups: GroupScores) -> str:
    return f"{groups.first}…{groups.first + groups.num_groups - 1}"


def _format_columns(corner: str, rows: list[str], columns: list[Column]) -> list[str]:
    heads = (corner, *(head for head, _ in columns))
    return format_table(heads, [(ROW_TITLES[row], *(cells[row].text for _, cells in columns)) for row in rows])
