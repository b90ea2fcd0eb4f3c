"""The command `contrast compare`: runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from shards.console import echo_json, examples, json_option


@click.command(
    epilog=examples(
        "contrast compare runs/a runs/b",
        "contrast compare runs/seed* --average",
        "contrast compare runs/n*-seed* --over num_groups --out n.png    # accuracy over the number of groups",
        "contrast compare runs/* --out scores.csv",
    )
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--average", is_flag=True, help="Show runs that differ only in their seed as one row: mean ± standard deviation."
)
@click.option(
    "--over",
    metavar="SETTING",
    help="Let the figure of --out show the scores over a setting, such as num_groups; implies --average.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write: a page (.html), the table (.md), every score (.csv), or the figure (.png): the runs' curves, "
    "or with --over their scores.",
)
@json_option
def compare(runs: tuple[Path, ...], average: bool, over: str | None, out: Path | None, as_json: bool) -> None:
    """Print RUNS side by side, and draw their curves or scores.

    The table has the settings in which the runs differ, and their steps, losses and scores.
    """
    import contrast

    comparison = contrast.compare(runs, out=out, average=average, over=over)
    if as_json:
        echo_json(comparison.to_json())
        return
    click.echo(comparison)
    if out is not None:
        click.echo(f"\nwrote {out}")
