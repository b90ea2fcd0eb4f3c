"""The main job, end to end: render groups, learn from them, score on real photographs, write a report.

    make demo                                   # one seed
    python tools/demo.py --seeds 3              # three training seeds, mean and standard deviation

Everything lands in runs/demo and datasets/. What is there already is used again, and said to be. Where CIFAR-10 cannot
be fetched, the scores are taken on generated images that training has not seen, and the table says so.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import click
from measuring import Program

import contrast
import shards
import synthgen
from contrast.averages import Spread
from contrast.evaluation.results import ROW_TITLES
from contrast.runlog import read_metrics
from shards.atomic import write_atomically
from shards.console import Count, format_table
from shards.markers import scan_markers
from shards.quantities import format_seconds

HELD_OUT = 1000
"""Groups rendered beyond the ones trained on, where there are no photographs to score on."""


def say(text: str) -> None:
    click.echo(f"\n=== {text}", err=True)


def fetch_photographs(folder: Path) -> bool:
    """True when CIFAR-10 is in the folder, checked; False, with the reason shown, when it cannot be had."""
    try:
        source = contrast.data.cifar10(out=folder).source
    except ValueError as error:  # damage in what is there already is for the user to see
        click.echo(f"{error}\nno photographs: scoring on held-out generated images instead", err=True)
        return False
    click.echo(f"{folder}: CIFAR-10, checked ({source})", err=True)
    return True


def measure_rendering(dataset: Path, *, seconds: float, rendered: int) -> float:
    """Groups per second of this call, or, when it rendered nothing, of the shards' own records."""
    if rendered:
        return rendered / seconds
    markers = scan_markers(dataset).values()
    return sum(marker.count for marker in markers) / sum(marker.seconds for marker in markers)


def median_views_per_second(run: Path) -> float:
    return statistics.median(record["views_per_second"] for record in read_metrics(run))


main = Program()


@main.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--n", type=Count(), default="10k", show_default=True, help="Groups to render and learn from.")
@click.option("--steps", type=Count(), default="1500", show_default=True, help="Training steps.")
@click.option("--batch-size", type=Count(), default="128", show_default=True, help="Groups of a step.")
@click.option("--objective", default="simclr", show_default=True)
@click.option(
    "--seeds", type=Count(), default="1", show_default=True, help="Training seeds, 0, 1, …; scores are means."
)
@click.option("--num-train", type=Count(), default="10k", show_default=True, help="Labelled images of kNN and probe.")
@click.option("--datasets", type=click.Path(path_type=Path), default=Path("datasets"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
def demo(
    n: int, steps: int, batch_size: int, objective: str, seeds: int, num_train: int, datasets: Path, out: Path
) -> None:
    began = time.monotonic()
    dataset, photographs = datasets / "demo", datasets / "cifar10"
    out.mkdir(parents=True, exist_ok=True)

    say(f"1 of 4: real photographs, for scoring only ({photographs})")
    real = fetch_photographs(photographs)

    to_render = n if real else n + HELD_OUT
    say(f"2 of 4: render {to_render} groups, an anchor and a view each ({dataset})")
    before = sum(marker.count for marker in scan_markers(dataset).values())
    started = time.monotonic()
    synthgen.render(n=to_render, out=dataset)
    seconds = time.monotonic() - started
    rendered = sum(marker.count for marker in scan_markers(dataset).values()) - before
    if rendered == 0:
        click.echo(f"{dataset}: used as it is", err=True)
    sheet = shards.preview(dataset, out=out / "sheet.png")

    results, trained_steps = [], 0
    for seed in range(seeds):
        run = out / f"seed{seed}"
        say(f"3 of 4: learn from the groups, seed {seed} ({run})")
        summary = contrast.train(
            shards=dataset, out=run, n=n, steps=steps, batch_size=batch_size, objective=objective, seed=seed
        )
        trained_steps += summary.steps_now
        if summary.steps_now == 0:
            click.echo(f"{run}: trained already, used as it is", err=True)
        say(f"4 of 4: score seed {seed} on {'real CIFAR-10 test images' if real else 'held-out generated images'}")
        data = {"data": str(dataset)}  # the groups learnt from are the labelled images, all of them
        if real:
            data = {"data": "cifar10", "data_root": photographs, "num_train": num_train}
        results += contrast.eval(run=run, **data).tests
    report = contrast.report(run=out / "seed0", out=out / "report.html", sheet=sheet)

    scores = {
        f"{kind}_{row}": Spread(values=tuple(getattr(result.scores[row], kind) for result in results), digits=1)
        for kind in ("knn", "linear")
        for row in ("pixels", "random", "trained")
    }
    result = {
        "groups": n,
        "render_groups_per_second": round(measure_rendering(dataset, seconds=seconds, rendered=rendered), 1),
        "train_views_per_second": round(median_views_per_second(out / "seed0"), 1),
        **{name: round(spread.mean, 2) for name, spread in scores.items()},
        "evaluated_on": results[0].evaluated_on,
        "seeds": seeds,
        "standard_deviation": {name: round(spread.deviation, 2) for name, spread in scores.items()},
        "per_seed": {name: list(spread.values) for name, spread in scores.items()},
        "seconds_total": round(time.monotonic() - began, 1),
    }
    if rendered == 0 and trained_steps == 0 and (out / "result.json").exists():  # the time of the run that did the work
        result["seconds_total"] = json.loads((out / "result.json").read_text())["seconds_total"]
    write_atomically(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())

    click.echo(f"\ntop-1 accuracy, %, on {results[0].evaluated_on}, {results[0].num_train} training labels")
    rows = [(ROW_TITLES[row], scores[f"knn_{row}"].text, scores[f"linear_{row}"].text) for row in ROW_TITLES]
    click.echo("\n".join(format_table(("", "kNN", "linear"), rows)))
    if seeds > 1:
        click.echo(f"mean ± standard deviation of {seeds} training seeds, on the same groups and the same labels")
    click.echo(f"\n{format_seconds(time.monotonic() - began)} in all. To look at:")
    click.echo(f"  {sheet}  the groups, a row each: anchor, view")
    click.echo(f"  {report}  the whole run on one page")
    click.echo(f"  {out / 'result.json'}  the figures")


if __name__ == "__main__":
    main()
