"""Figures of a comparison: how runs learnt, or what they scored over one of their settings.

draw_comparison(comparison).savefig("comparison.png")
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from contrast.averages import SEED, Average
from contrast.comparison import Comparison, short_name, text_of
from contrast.evaluation.results import ROW_TITLES
from shards.canonical import JSON, canonical_json
from shards.quantities import format_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2a78c2", "#d86a00", "#3a9a5b", "#b0413e", "#7b5ea7", "#8c6d46", "#c75a9b", "#666666", "#9a9a1f", "#1f9aa0")
_LINES = ("-", "--", ":")
_PANEL_INCHES = (5.6, 3.8)
_MOST_COLUMNS = 3
_LETTERS_OF_AN_INCH = 12
_CONTROLS = {"pixels": ":", "random": "--"}


def draw_comparison(comparison: Comparison) -> Figure:
    """Scores over a setting where the comparison has one, else the curves of training.

    Raises:
        ValueError: there is nothing to draw.
    """
    if comparison.over is None:
        return draw_training(comparison)
    return draw_scores(comparison, comparison.over)


def draw_training(comparison: Comparison) -> Figure:
    """Loss, and kNN where it was scored while training, over the groups seen.

    Raises:
        ValueError: no run has recorded a step.
    """
    drawn = [run for run in comparison.runs if run.metrics]
    if not drawn:
        raise ValueError("no run has recorded a step yet: there are no curves to draw")
    objectives = {run.settings["objective"] for run in drawn}
    panels = [("loss", f"{objectives.pop()} loss" if len(objectives) == 1 else "loss of the run's objective")]
    if any("knn" in record for run in drawn for record in run.metrics):
        panels.append(("knn", "kNN accuracy while training, %"))
    figure, axes_of_panels = _panels(len(panels))
    for axes, (name, title) in zip(axes_of_panels, panels, strict=True):
        for number, run in enumerate(comparison.runs):
            points = [
                (record["groups"], record[name]) for record in run.metrics if name in record and "groups" in record
            ]
            if points:
                marker = "." if name == "knn" or len(points) < 3 else ""
                axes.plot(*zip(*points, strict=True), **_style(number), marker=marker, label=run.name)
        chances = {run.metrics[-1].get("chance_loss") for run in drawn}
        if name == "loss" and len(chances) == 1 and None not in chances:
            axes.axhline(*chances, color="#999", linestyle="--", linewidth=1, label="chance")
        axes.set_xlabel("groups seen")
        axes.set_ylabel(title)
    _add_legend(figure)
    return figure


def draw_scores(comparison: Comparison, over: str) -> Figure:
    """A panel per score, a line per choice of the other settings; bars are the standard deviation over the seeds.

    Controls, raw pixels and the untrained encoder, are level lines: the mean of all runs that scored them.

    Raises:
        ValueError: no run has scores.
    """
    averages = [one for one in comparison.averages if one.settings[over] is not None]
    keys = dict.fromkeys(key[:2] for one in averages for key in one.scores)
    if not keys:
        raise ValueError("no run has scores yet: there is nothing to draw (contrast eval)")
    others = [name for name in comparison.differing if name not in (over, SEED)]
    lines: dict[str, list[Average]] = {}
    for one in averages:
        lines.setdefault(canonical_json([one.settings[name] for name in others]), []).append(one)
    places = _places([one.settings[over] for one in averages])
    figure, axes_of_panels = _panels(len(keys))
    numbers = {source: number for number, source in enumerate(comparison.sources, start=1)}
    for axes, (source, head) in zip(axes_of_panels, keys, strict=True):
        for number, line in enumerate(lines.values()):
            spreads = {
                places[canonical_json(one.settings[over])]: one.scores[source, head, "trained"]
                for one in line
                if (source, head, "trained") in one.scores
            }
            if spreads:
                axes.errorbar(
                    sorted(spreads),
                    [spreads[place].mean for place in sorted(spreads)],
                    yerr=[spreads[place].deviation for place in sorted(spreads)],
                    **_style(number),
                    marker="o",
                    markersize=4,
                    capsize=3,
                    label=_label(line[0], others),
                )
        for row, dashes in _CONTROLS.items():
            found = [one.scores[source, head, row] for one in averages if (source, head, row) in one.scores]
            if found:
                level = statistics.mean(value for spread in found for value in spread.values)
                axes.axhline(level, color="#999", linestyle=dashes, linewidth=1, label=ROW_TITLES[row])
        _scale(axes, [one.settings[over] for one in averages], places)
        axes.set_xlabel(short_name(over))
        axes.set_ylabel(head if len(numbers) == 1 else f"{head} [{numbers[source]}]")
    _add_legend(figure)
    return figure


def _label(average: Average, names: Sequence[str]) -> str:
    """What a line is: its settings beside the one that it is drawn over."""
    given = [(name.rpartition(".")[2], average.settings[name]) for name in names if average.settings[name] is not None]
    return ", ".join(f"{name} {text_of(value)}" for name, value in given) or ROW_TITLES["trained"]


def _places(values: Sequence[JSON]) -> dict[str, float]:
    """Where values stand, by their JSON: at themselves where all are numbers, else in a row."""
    if all(_is_number(value) for value in values):
        return {canonical_json(value): value for value in values}
    return {text: place for place, text in enumerate(dict.fromkeys(map(canonical_json, values)))}


def _scale(axes: Any, values: Sequence[JSON], places: dict[str, float]) -> None:
    """Ticks where there are points, on a logarithmic axis where these are numbers far apart."""
    texts = {places[canonical_json(value)]: _tick(value) for value in values}
    ticks = sorted(texts)
    if all(_is_number(value) for value in values) and ticks[0] > 0 and ticks[-1] >= 8 * ticks[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(ticks, [texts[tick] for tick in ticks])


def _tick(value: JSON) -> str:
    if not _is_number(value):
        return text_of(value)
    return format_count(value) if isinstance(value, int) else f"{value:g}"


def _is_number(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _style(number: int) -> dict[str, str]:
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": _LINES[number // len(COLOURS) % len(_LINES)]}


def _panels(count: int) -> tuple[Figure, Sequence[Any]]:
    from matplotlib.figure import Figure

    columns = min(count, _MOST_COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _add_legend(figure: Figure) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        found, labels = axes.get_legend_handles_labels()
        handles |= {label: handle for label, handle in zip(labels, found, strict=True) if label not in handles}
    fitting = int(figure.get_figwidth() * _LETTERS_OF_AN_INCH // (max(map(len, handles), default=1) + 8))
    columns = max(1, min(len(handles), fitting))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
