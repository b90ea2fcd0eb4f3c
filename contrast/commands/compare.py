"""The command `contrast compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from shards.console import echo_json, examples, json_option


@click.command(epilog=examples("contrast compare runs/a runs/b", "contrast compare runs/seed* --out comparison.html"))
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write: a page (.html), the table (.md) or the curves (.png).",
)
@json_option
def compare(runs: tuple[Path, ...], out: Path | None, as_json: bool) -> None:
    """Print RUNS side by side, and draw their curves.

    The table has the settings in which the runs differ, and their steps, losses and scores.
    """
    import contrast
    from contrast.comparison import format_comparison

    comparison = contrast.compare(runs, out=out)
    if as_json:
        echo_json(comparison.to_json())
        return
    click.echo(format_comparison(comparison))
    if out is not None:
        click.echo(f"\nwrote {out}")
