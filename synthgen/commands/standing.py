"""The command `synthgen status`: how far a render is, once or again and again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from synthgen.progress import Status, status

_WATCH_SECONDS = 2.0


@click.command("status")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Look again every two seconds, until the dataset is finished.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout; with --watch one a line.")
def status_command(directory: Path, watch: bool, as_json: bool) -> None:
    """Say how far the render in DIR is: shards, rate, time left, failures.

    It reads what the workers leave in the folder, so it works from any machine that sees it.
    """
    while True:
        state = status(directory)
        _show(state, as_json=as_json, one_line=watch, redraw=watch and not as_json)
        if not watch or state.finished:
            return
        time.sleep(_WATCH_SECONDS)


def _show(state: Status, *, as_json: bool, one_line: bool, redraw: bool) -> None:
    if as_json:
        click.echo(json.dumps(state.to_json(), indent=None if one_line else 1))
        return
    if redraw:
        click.clear()  # on a terminal only
    click.echo("\n".join(state.lines()))
