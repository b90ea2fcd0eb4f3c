"""`synthgen views show`: see what view policies do before a dataset is rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shards.console import examples
from synthgen.commands.model_options import given, model_options


@click.group(epilog=examples("synthgen views show --policy gaussian,ball --std 0.1,0.2,0.5 --out sheet.png"))
def views() -> None:
    """See what view policies do."""


@views.command(
    epilog=examples(
        "synthgen views show --policy gaussian,ball --std 0.1,0.2,0.5 --out sheet.png",
        "synthgen views show --policy angular --degrees 10,20,40 --truncation 0.7 --out angles.png",
        "synthgen views show --policy gaussian,steer --std 0.3 --strength 0.5,1 --out both.png",
    )
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The PNG file to write.")
@click.option(
    "--policy", help="Of gaussian,independent,ball,angular,steer,directions; or one mixture.  [default: gaussian]"
)
@click.option("--std", help="gaussian, directions: values such as 0.1,0.2.  [default: a useful range]")
@click.option("--radius", help="ball: values.  [default: a useful range]")
@click.option("--degrees", help="angular: values.  [default: a useful range]")
@click.option("--strength", help="steer: values.  [default: a useful range]")
@click.option("--edits", help="steer: which walks, such as zoom,brightness.  [default: all]")
@click.option("--walks", type=click.Path(path_type=Path), help="steer: a file.  [default: the package's own]")
@click.option("--directions", type=click.Path(path_type=Path), help="directions: a file of `synthgen directions`.")
@click.option("--samples", type=int, help="Rows.  [default: 6]")
@click.option(
    "--classes", help="all, or as in synthgen render: ids such as 0,3,7, names, imagenet100, or a file.  [default: all]"
)
@model_options
def show(**options: Any) -> None:
    """Draw a contact sheet of view policies.

    A row per sample: the anchor, and its views by each policy at each strength.
    """
    from synthgen.views import show

    click.echo(f"wrote {show(**given(options))}")
