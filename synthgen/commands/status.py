"""The command `synthgen status`: how far a render is, once or again and again."""

from __future__ import annotations

import time
from pathlib import Path

import click

from shards.console import OneLineError, echo_json, examples, json_option
from synthgen.progress import Status, status

_WATCH_SECONDS = 2.0
_LOOKS_ALONE = 150
"""Five minutes: tasks of an array may be between two starts."""


@click.command(
    "status",
    epilog=examples(
        "synthgen status datasets/tour",
        "synthgen status datasets/tour --watch",
        "synthgen status datasets/tour --json",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--watch",
    is_flag=True,
    help="Look again every two seconds, until the dataset is finished, or no worker has been running for five minutes.",
)
@json_option
def status_command(directory: Path, watch: bool, as_json: bool) -> None:
    """Show the progress of the render in DIR, and what failed.

    Shards, rate, time left and failures, from what the workers leave in the folder: any machine that sees it can ask.
    With --watch, --json prints one object a line, and where no worker runs any more, the command exits with code 1.
    """
    looks_alone = 0
    while True:
        state = status(directory)
        _show(state, as_json=as_json, one_line=watch, redraw=watch and not as_json)
        if not watch or state.finished:
            return
        looks_alone = looks_alone + 1 if state.state == "stopped" else 0
        if looks_alone > _LOOKS_ALONE:
            raise OneLineError("no worker has been running for five minutes: nothing to watch", 1)
        time.sleep(_WATCH_SECONDS)


def _show(state: Status, *, as_json: bool, one_line: bool, redraw: bool) -> None:
    if as_json:
        echo_json(state.to_json(), one_line=one_line)
        return
    if redraw:
        click.clear()  # on a terminal only
    click.echo("\n".join(state.lines()))
