"""The command `contrast compare`: runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="\b\nExamples:\n  contrast compare runs/a runs/b\n  contrast compare runs/seed* --out comparison.html"
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write: a page (.html), the table (.md) or the curves (.png).",
)
@click.option("--json", "as_json", is_flag=True, help="Print settings, last record and scores of the runs as JSON.")
def compare(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Print RUNS side by side: the settings in which they differ, steps, loss and scores; draw their curves."""
    import contrast
    from contrast.comparison import format_comparison

    comparison = contrast.compare(runs, out=out)
    click.echo(json.dumps(comparison.to_json(), ensure_ascii=False) if as_json else format_comparison(comparison))
    if out is not None and not as_json:
        click.echo(f"\n{out}")
