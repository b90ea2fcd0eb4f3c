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
    averages = comparison.averages
    keys = dict.fromkeys(key[:2] for one in averages for key in one.scores)
    if not keys:
        raise ValueError("no run has scores yet: there is nothing to draw (contrast eval)")
    others = [name for name in comparison.differing if name not in (over, SEED)]
    lines: dict[str, list[Average]] = {}
    for one in averages:
        lines.setdefault(canonical_json([one.settings[name] for name in others]), []).append(one)
    figure, axes_of_panels = _panels(len(keys))
    sources = comparison.sources
    for axes, (source, head) in zip(axes_of_panels, keys, strict=True):
        for number, line in enumerate(lines.values()):
            scored = sorted(
                (one for one in line if (source, head, "trained") in one.scores),
                key=lambda one: _place(one.settings[over]),
            )
            if scored:
                spreads = [one.scores[source, head, "trained"] for one in scored]
                label = ", ".join(f"{short_name(name)} {text_of(line[0].settings[name])}" for name in others)
                axes.errorbar(
                    [_position(one.settings[over]) for one in scored],
                    [spread.mean for spread in spreads],
                    yerr=[spread.deviation for spread in spreads],
                    **_style(number),
                    marker="o",
                    markersize=4,
                    capsize=3,
                    label=label or ROW_TITLES["trained"],
                )
        for row, dashes in _CONTROLS.items():
            found = [one.scores[source, head, row] for one in averages if (source, head, row) in one.scores]
            if found:
                level = statistics.mean(value for spread in found for value in spread.values)
                axes.axhline(level, color="#999", linestyle=dashes, linewidth=1, label=ROW_TITLES[row])
        _scale(axes, sorted({one.settings[over] for one in averages if _is_number(one.settings[over])}))
        axes.set_xlabel(short_name(over))
        axes.set_ylabel(head if len(sources) == 1 else f"{head}, {sources[source]}")
    _add_legend(figure)
    return figure


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Ticks where there are points, on a logarithmic axis where these are far apart."""
    if not values:
        return
    if values[0] > 0 and values[-1] >= 8 * values[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    labels = [format_count(value) if isinstance(value, int) else f"{value:g}" for value in values]
    axes.set_xticks(values, labels)


def _is_number(value: JSON) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _position(value: JSON) -> Any:
    return value if _is_number(value) else text_of(value)


def _place(value: JSON) -> tuple[bool, Any]:
    """What values are sorted by: numbers first, by size."""
    return (False, value) if _is_number(value) else (True, text_of(value))


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
    columns = min(len(handles), 2 * min(len(figure.axes), _MOST_COLUMNS))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False)
