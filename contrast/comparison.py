"""Several runs side by side: in what they differ, what they scored, and how they got there.

comparison = compare(["runs/a", "runs/b"], out="comparison.html")
print(comparison)
compare(runs, average=True, over="num_groups", out="n.png")      # seeds as one, scores over the number of groups
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrast.averages import SEED, Average, average_runs
from contrast.compared_runs import ComparedRun, differing_settings, read_runs
from contrast.evaluation.tables import Source, name_sources
from shards.canonical import JSON, shorten
from shards.console import format_table

ABSENT = "–"
_CHECKSUM = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs in the order in which they were given."""

    runs: tuple[ComparedRun, ...]
    differing: tuple[str, ...]
    """Settings that are not the same in all of them."""
    average: bool = False
    """Whether the table has runs that differ in their seed alone as one."""
    over: str | None = None
    """The setting over which scores are drawn; None for the curves of training."""

    @property
    def scored_midway(self) -> tuple[str, ...]:
        """Names of the runs whose scores were taken before their last step."""
        return tuple(
            run.name for run in self.runs if run.evaluation is not None and run.evaluation.step != run.settings["steps"]
        )

    @property
    def sources(self) -> dict[Source, str]:
        """What scores were taken on, and the name of each that tells it from the others."""
        return name_sources(source for run in self.runs for source, _, _ in run.scores)

    @property
    def averages(self) -> tuple[Average, ...]:
        """The runs, those that differ in their seed alone as one."""
        return average_runs(self.runs, self.differing)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads, and a row of cells per run or average: differing settings, steps, loss, scores of the trained encoder.

        Where scores are not of a run's last step, a column says which step they are of. Where they were taken on
        several sources, the heads bear the number of theirs, [1] for the first of `sources`.
        """
        rows: list[list[str]]
        if self.average:
            names = [name for name in self.differing if name != SEED]
            heads = [*map(short_name, names), "runs"]
            rows = [[*_texts(one.settings, names), str(len(one.runs))] for one in self.averages]
            scored = [{key: spread.text for key, spread in one.scores.items()} for one in self.averages]
        else:
            heads = ["run", *map(short_name, self.differing), "steps done", "loss"]
            rows = [[run.name, *_texts(run.settings, self.differing), *_progress(run)] for run in self.runs]
            scored = [{key: cell.text for key, cell in run.scores.items()} for run in self.runs]
            if self.scored_midway:
                heads.append("scored at step")
                for run, row in zip(self.runs, rows, strict=True):
                    row.append(ABSENT if run.evaluation is None else str(run.evaluation.step))
        numbers = {source: number for number, source in enumerate(self.sources, start=1)}
        for source, head in dict.fromkeys(key[:2] for scores in scored for key in scores):
            heads.append(head if len(numbers) == 1 else f"{head} [{numbers[source]}]")
            for row, scores in zip(rows, scored, strict=True):
                row.append(scores.get((source, head, "trained"), ABSENT))
        return heads, rows

    def remarks(self) -> list[str]:
        """What a reader of the table has to know: what was tested, every note of the runs' scores, what is unfinished.

        A note names its runs, and its tests unless it applies to all of them.
        """
        evaluations = [(run.name, run.evaluation) for run in self.runs if run.evaluation is not None]
        names = list(self.sources.values())
        lines = [f"[{number}] {name}" for number, name in enumerate(names, start=1)] if len(names) > 1 else []
        if self.average:
            lines.append("Mean ± standard deviation (n - 1) of the runs that differ in their seed alone.")
            unscored = [run.name for one in self.averages for run in one.runs if run.scores.keys() != one.scores.keys()]
            if unscored:
                lines.append(f"Without some of the scores, and not in their means: {', '.join(unscored)}.")
        if self.over is not None and (lacking := [r.name for r in self.runs if r.settings.get(self.over) is None]):
            lines.append(f"Without {short_name(self.over)}, and not drawn: {', '.join(lacking)}.")
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
            said = "" if self.average else ", as the column says"
            lines.append(
                f"Not scored at the last step{said}: {', '.join(self.scored_midway)}. "
                "Score again (contrast eval) once finished."
            )
        return list(dict.fromkeys(lines))

    def __str__(self) -> str:
        """The table and its remarks, as `contrast compare` prints them."""
        lines = format_table(*self.table())
        remarks = self.remarks()
        return "\n".join([*lines, "", *remarks] if remarks else lines)

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps; without the curves, which lie in every run's metrics.jsonl."""
        names = self.sources
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
            "averages": [
                {
                    "runs": [run.run for run in one.runs],
                    "settings": one.settings,
                    "scores": [
                        {
                            "source": names[source],
                            "score": head,
                            "row": row,
                            "mean": spread.mean,
                            "deviation": spread.deviation,
                            "values": list(spread.values),
                        }
                        for (source, head, row), spread in one.scores.items()
                    ],
                }
                for one in self.averages
            ],
        }


def compare(
    runs: Sequence[str | Path], *, out: str | Path | None = None, average: bool = False, over: str | None = None
) -> Comparison:
    """Puts runs side by side, and writes them to a file; see `contrast compare --help`.

    Args:
        out: a file whose name ends in .html, .md, .csv or .png.
        average: takes runs that differ in their seed alone as one.
        over: a setting in which they differ, such as "num_groups": the figure has the scores over it, seeds averaged.

    Raises:
        ValueError: there are fewer than two, one is given twice, a folder is no run, `out` ends in something else, or
            the runs do not differ in `over`, or have no scores to draw over it.
        DamageError: a file of a run is not as it was written.
    """
    from contrast.comparison_files import check_out, write_comparison

    if out is not None:
        check_out(Path(out))
    compared = read_runs(runs)
    differing = differing_settings(compared)
    comparison = Comparison(
        runs=compared,
        differing=differing,
        average=average or over is not None,
        over=None if over is None else _find_setting(over, differing),
    )
    if out is not None:
        write_comparison(comparison, Path(out))
    return comparison


def short_name(setting: str) -> str:
    """As tables and figures call a setting."""
    return setting.removeprefix("trained_on.")


def _find_setting(name: str, differing: Sequence[str]) -> str:
    fitting = [setting for setting in differing if setting == name or setting.endswith(f".{name}")]
    if not fitting or name == SEED:
        known = ", ".join(short_name(setting) for setting in differing if setting != SEED) or "nothing but the seed"
        raise ValueError(f"--over {name}: the runs do not differ in it; they differ in {known}")
    return min(fitting, key=len)


def _texts(settings: dict[str, JSON], names: Sequence[str]) -> list[str]:
    return [text_of(settings.get(name)) for name in names]


def text_of(value: Any) -> str:
    """A setting's value: names whole, checksums and lists short."""
    if value is None:
        return ABSENT
    return value if isinstance(value, str) and not _CHECKSUM.fullmatch(value) else shorten(value)


def _progress(run: ComparedRun) -> tuple[str, str]:
    last = run.metrics[-1] if run.metrics else {}
    return f"{last['step']:.0f}" if last else ABSENT, f"{last['loss']:.3f}" if "loss" in last else ABSENT
