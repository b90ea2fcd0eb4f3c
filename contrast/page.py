"""One page about a run that opens from a file: scores, loss curve, the groups it learnt from, its configuration.

    write_report(Path("runs/tour"), Path("report.html"), sheet=Path("sheet.png"))

Nothing is fetched by the page: pictures and curves lie inside it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from contrast.evaluation.results import ROW_TITLES, read_evaluation
from contrast.evaluation.tables import columns_of_groups, columns_of_test
from contrast.html import fill_template, svg_element
from contrast.run_folder import RunRecord, read_environment, read_run
from contrast.runlog import METRICS_NAME, read_metrics
from shards.atomic import write_atomically
from shards.canonical import JSON, shorten
from shards.errors import DamageError
from shards.quantities import format_count

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_report(run: str | Path, out: str | Path, *, sheet: str | Path | None = None) -> Path:
    """Writes one self-contained HTML page about a run to `out` and gives its path; see `contrast report --help`.

    Args:
        sheet: a PNG, such as shards preview writes, that is put into the page.

    Raises:
        ValueError: the folder is not a run, the sheet is not a PNG, or `out` is no .html file, or one of the run's own.
        DamageError: a file of the run is not as it was written.
    """
    run, out = Path(run), Path(out)
    if out.suffix not in (".html", ".htm") or out.is_dir():
        raise ValueError(f"--out {out}: give a file name that ends in .html")
    sheet_png = "" if sheet is None else _read_png(Path(sheet))
    record = read_run(run)
    metrics = _read_figures(run)
    page = fill_template(
        "page.html",
        title=f"{run.resolve().name}: {record.config.objective} on {format_count(record.trained_on.num_groups)} groups",
        about=f"{record.config.encoder}, {record.config.steps} steps of {record.config.batch_size} groups, "
        f"{record.trained_on.image_size} px",
        run=str(run),
        row_titles=ROW_TITLES,
        evaluation=read_evaluation(run),
        columns_of_test=columns_of_test,
        columns_of_groups=columns_of_groups,
        loss_svg=draw_loss_curve(metrics, objective=record.config.objective) if metrics else "",
        training=_training_rows(record, metrics),
        sheet=sheet_png,
        config=json.dumps(record.to_json(), indent=1, ensure_ascii=False),
        environment=json.dumps(read_environment(run), indent=1, ensure_ascii=False),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())
    return out


def draw_loss_curve(metrics: list[dict[str, float]], *, objective: str) -> str:
    """An SVG element: the loss over the steps, that of an encoder that knows nothing, and kNN where it was scored."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    steps = [record["step"] for record in metrics]
    axes.plot(
        steps,
        [record["loss"] for record in metrics],
        color="#2a78c2",
        label="loss",
        marker="." if len(steps) < 3 else "",
    )
    axes.axhline(metrics[-1]["chance_loss"], color="#999", linestyle="--", linewidth=1, label="chance")
    axes.set_xlabel("step")
    axes.set_ylabel(f"{objective} loss")
    axes.spines[["top", "right"]].set_visible(False)
    scored = [record for record in metrics if "knn" in record]
    if scored:
        right = axes.twinx()
        right.plot(
            [record["step"] for record in scored],
            [record["knn"] for record in scored],
            color="#d86a00",
            label="kNN",
            marker=".",
        )
        right.set_ylabel("kNN accuracy while training, %")
        right.spines["top"].set_visible(False)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return svg_element(figure)


def _training_rows(record: RunRecord, metrics: list[dict[str, float]]) -> list[tuple[str, str]]:
    recipe = record.trained_on.groups.recipe
    rows = [
        ("groups", format_count(record.trained_on.num_groups)),
        ("images per group", str(record.trained_on.num_images)),
        ("rendered by", str(recipe.source.get("generator", "real images"))),
        ("views", "; ".join(_view_in_words(view) for view in recipe.views) or "none"),
        ("recipe", recipe.id[:12]),
        ("seed", str(record.config.seed)),
    ]
    if metrics:
        rates = sorted(entry["views_per_second"] for entry in metrics)
        rows += [
            ("steps recorded", f"{int(metrics[-1]['step'])} of {record.config.steps}"),
            ("loss at the end", f"{metrics[-1]['loss']:.3f} (chance {metrics[-1]['chance_loss']:.3f})"),
            ("views per second, median", f"{rates[len(rates) // 2]:.0f}"),
        ]
    return rows


def _view_in_words(view: Mapping[str, JSON]) -> str:
    """Such as "gaussian, std 0.3"."""
    parameters = (f"{name} {shorten(value)}" for name, value in view.items() if name != "policy")
    return ", ".join([str(view["policy"]), *parameters])


def _read_figures(run: Path) -> list[dict[str, float]]:
    metrics = read_metrics(run)
    for record in metrics:
        missing = [name for name in ("loss", "chance_loss", "views_per_second") if name not in record]
        if missing:
            raise DamageError(
                f"{run / METRICS_NAME}: the record of step {record['step']} has no {missing[0]}; remove its line"
            )
    return metrics


def _read_png(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"no file {path}: give a PNG such as shards preview --out writes")
    data = path.read_bytes()
    if not data.startswith(PNG_SIGNATURE):
        raise ValueError(f"{path} is not a PNG: give the file that shards preview --out wrote")
    return base64.b64encode(data).decode()
