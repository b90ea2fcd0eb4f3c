"""Several runs side by side: in what they differ, what they scored, and how they got there.

comparison = compare_runs(["runs/a", "runs/b"])
print(format_comparison(comparison))
write_comparison(comparison, Path("comparison.html"))
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrast.evaluation.results import Evaluation, read_evaluation
from contrast.evaluation.tables import (
    Source,
    columns_of_groups,
    columns_of_test,
    name_sources,
    source_of_groups,
    source_of_test,
)
from contrast.html import fill_template, svg_element
from contrast.run_folder import RunRecord, read_run
from contrast.runlog import read_metrics
from shards.atomic import write_atomically
from shards.canonical import JSON, shorten
from shards.console import format_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".html", ".md", ".png")
ABSENT = "–"
COLOURS = ("#2a78c2", "#d86a00", "#3a9a5b", "#b0413e", "#7b5ea7", "#8c6d46", "#c75a9b", "#666666", "#9a9a1f", "#1f9aa0")


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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs in the order in which they were given."""

    runs: tuple[ComparedRun, ...]
    differing: tuple[str, ...]
    """Settings that are not the same in all of them."""

    @property
    def scored_midway(self) -> tuple[str, ...]:
        """Names of the runs whose scores were taken before their last step."""
        return tuple(
            run.name for run in self.runs if run.evaluation is not None and run.evaluation.step != run.settings["steps"]
        )

    @property
    def sources(self) -> dict[Source, str]:
        """What scores were taken on, and the name of each that tells it from the others."""
        return name_sources(source for run in self.runs for source, _ in _scores_of(run.evaluation))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads, and a row of cells per run: differing settings, steps, loss, scores of the trained encoder.

        Where scores are not of a run's last step, a column says which step they are of. Where they were taken on
        several sources, the heads bear the number of theirs, [1] for the first of `sources`.
        """
        heads = ["run", *(name.removeprefix("trained_on.") for name in self.differing), "steps done", "loss"]
        rows = [[run.name, *(_text(run.settings.get(name)) for name in self.differing)] for run in self.runs]
        for run, row in zip(self.runs, rows, strict=True):
            last = run.metrics[-1] if run.metrics else {}
            row.append(f"{last['step']:.0f}" if last else ABSENT)
            row.append(f"{last['loss']:.3f}" if "loss" in last else ABSENT)
        if self.scored_midway:
            heads.append("scored at step")
            for run, row in zip(self.runs, rows, strict=True):
                row.append(ABSENT if run.evaluation is None else str(run.evaluation.step))
        scored = [_scores_of(run.evaluation) for run in self.runs]
        numbers = {source: number for number, source in enumerate(self.sources, start=1)}
        for source, head in dict.fromkeys(key for scores in scored for key in scores):
            heads.append(head if len(numbers) == 1 else f"{head} [{numbers[source]}]")
            for row, scores in zip(rows, scored, strict=True):
                row.append(scores.get((source, head), ABSENT))
        return heads, rows

    def remarks(self) -> list[str]:
        """What a reader of the table has to know: what was tested, every note of the runs' scores, what is unfinished.

        A note names its runs, and its tests unless it applies to all of them.
        """
        evaluations = [(run.name, run.evaluation) for run in self.runs if run.evaluation is not None]
        names = list(self.sources.values())
        lines = [f"[{number}] {name}" for number, name in enumerate(names, start=1)] if len(names) > 1 else []
        lines += [
            f"Tested on {test.evaluated_on}, {test.num_classes} classes; labels from {test.trained_with}. "
            "Accuracies are top-1, in percent."
            for _, evaluation in evaluations
            for test in evaluation.tests
        ]
        runs_by_note: dict[str, list[str]] = {}
        for name, evaluation in evaluations:
            notes = [(test.data, test.notes) for test in evaluation.tests]
            if evaluation.groups is not None:
                notes.append((f"groups of {evaluation.groups.dataset}", evaluation.groups.notes))
            for note in dict.fromkeys(note for _, noted in notes for note in noted):
                where = [source for source, noted in notes if note in noted]
                text = note if len(where) == len(notes) else f"{note} ({', '.join(where)})"
                runs_by_note.setdefault(text, []).append(name)
        lines += [f"{', '.join(names)}: {text}" for text, names in runs_by_note.items()]
        augmentation = [name for name in self.differing if name.startswith("augment.")]
        aligned = [e for _, e in evaluations if e.groups and (e.groups.scores["trained"].alignment or {}).get("tx")]
        if augmentation and len(aligned) > 1:
            lines.append(
                f"Alignment tx is by each run's own augmentation, which differs here ({', '.join(augmentation)}): "
                "it does not compare the encoders."
            )
        if self.scored_midway:
            lines.append(
                f"Not scored at the last step, as the column says: {', '.join(self.scored_midway)}. "
                "Score again (contrast eval) once finished."
            )
        return list(dict.fromkeys(lines))

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps; without the curves, which lie in every run's metrics.jsonl."""
        return {
            "differing": list(self.differing),
            "runs": [
                {
                    "run": run.run,
                    "settings": {name: run.settings.get(name) for name in self.differing},
                    "last": run.metrics[-1] if run.metrics else None,
                    "evaluation": None if run.evaluation is None else run.evaluation.to_json(),
                }
                for run in self.runs
            ],
        }


def compare(runs: Sequence[str | Path], *, out: str | Path | None = None) -> Comparison:
    """Puts runs side by side, and writes a page, a table or the curves to `out`; see `contrast compare --help`.

    Args:
        out: a file whose name ends in .html, .md or .png.

    Raises:
        ValueError: there are fewer than two, one is given twice, a folder is no run, or `out` ends in something else.
        DamageError: a file of a run is not as it was written.
    """
    if out is not None:
        check_out(Path(out))
    comparison = compare_runs(runs)
    if out is not None:
        write_comparison(comparison, Path(out))
    return comparison


def compare_runs(runs: Sequence[str | Path]) -> Comparison:
    """Reads the runs.

    Raises:
        ValueError: there are fewer than two, one is given twice, or a folder is no run.
        DamageError: a file of a run is not as it was written.
    """
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if len(folders) < 2:
        raise ValueError("give two runs or more to compare")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is given twice: give every run once")
    last_parts = [folder.name for folder in folders]
    compared = tuple(
        ComparedRun(
            run=str(folder),
            name=folder.name if last_parts.count(folder.name) == 1 else str(folder),
            settings=_flatten(read_run(folder)),
            metrics=read_metrics(folder),
            evaluation=read_evaluation(folder),
        )
        for folder in folders
    )
    names = dict.fromkeys(name for run in compared for name in run.settings)
    differing = tuple(
        name for name in names if any(run.settings.get(name) != compared[0].settings.get(name) for run in compared)
    )
    return Comparison(runs=compared, differing=differing)


def format_comparison(comparison: Comparison) -> str:
    """The table and its remarks as plain text."""
    lines = format_table(*comparison.table())
    remarks = comparison.remarks()
    return "\n".join([*lines, "", *remarks] if remarks else lines)


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Writes the table and the curves as a page (.html), the table with its remarks (.md) or the curves alone (.png).

    Raises:
        ValueError: the file's name ends in something else, or there are no curves to draw.
    """
    check_out(out)
    if out.suffix == ".md":
        data = _markdown(comparison).encode()
    elif out.suffix == ".html":
        data = _page(comparison).encode()
    else:
        buffer = io.BytesIO()
        draw_curves(comparison).savefig(buffer, format="png", dpi=144)
        data = buffer.getvalue()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, data)
    return out


def check_out(out: Path) -> None:
    """Raises ValueError where no comparison can be written to a file of this name."""
    if out.suffix not in FORMATS:
        raise ValueError(f"--out {out}: give a file name that ends in {', '.join(FORMATS)}")


def draw_curves(comparison: Comparison) -> Figure:
    """Loss, and kNN where it was scored while training or afterwards, over the groups seen.

    Raises:
        ValueError: no run has recorded a step.
    """
    from matplotlib.figure import Figure

    drawn = [run for run in comparison.runs if run.metrics]
    if not drawn:
        raise ValueError("no run has recorded a step yet: there are no curves to draw")
    objectives = {run.settings["objective"] for run in drawn}
    panels = [("loss", f"{objectives.pop()} loss" if len(objectives) == 1 else "loss of the run's objective")]
    if any("knn" in record for run in drawn for record in run.metrics):
        panels.append(("knn", "kNN accuracy while training, %"))
    figure = Figure(figsize=(5.6 * len(panels), 3.8), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, run in enumerate(comparison.runs):
            points = [
                (record["groups"], record[name]) for record in run.metrics if name in record and "groups" in record
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    color=COLOURS[number % len(COLOURS)],
                    linestyle=("-", "--", ":")[number // len(COLOURS) % 3],
                    marker="." if name == "knn" or len(points) < 3 else "",
                    label=run.name,
                )
        chances = {run.metrics[-1].get("chance_loss") for run in drawn}
        if name == "loss" and len(chances) == 1 and None not in chances:
            axes.axhline(*chances, color="#999", linestyle="--", linewidth=1, label="chance")
        axes.set_xlabel("groups seen")
        axes.set_ylabel(title)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


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
    walk("trained_on", groups)
    return flat


def _scores_of(evaluation: Evaluation | None) -> dict[tuple[Source, str], str]:
    """The trained encoder's cells by (what they were taken on, column)."""
    if evaluation is None:
        return {}
    cells = {
        (source_of_test(test), head): column["trained"]
        for test in evaluation.tests
        for head, column in columns_of_test(test)
    }
    if evaluation.groups is not None:
        source = source_of_groups(evaluation.groups)
        cells |= {(source, head): column["trained"] for head, column in columns_of_groups(evaluation.groups)}
    return cells


def _text(value: Any) -> str:
    return ABSENT if value is None else shorten(value)


def _markdown(comparison: Comparison) -> str:
    heads, rows = comparison.table()
    lines = [heads, ["---"] * len(heads), *rows]
    table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return table + "".join(f"\n{remark}\n" for remark in comparison.remarks())


def _page(comparison: Comparison) -> str:
    heads, rows = comparison.table()
    has_curves = any(run.metrics for run in comparison.runs)
    return fill_template(
        "comparison.html",
        heads=heads,
        rows=rows,
        remarks=comparison.remarks(),
        curves_svg=svg_element(draw_curves(comparison)) if has_curves else "",
    )
