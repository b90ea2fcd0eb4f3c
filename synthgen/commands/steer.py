"""`synthgen steer train` and `synthgen steer show`: learn walks in latent space, and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shards.console import examples
from synthgen.commands.model_options import given, model_options


@click.group(
    epilog=examples(
        "synthgen steer show --out strip.png",
        "synthgen steer train --out walks.safetensors --edit zoom,brightness --steps 100",
    )
)
def steer() -> None:
    """Learn latent walks that edit images, and see them.

    The edits: zoom, shift, rotate, change brightness or colour.
    """


@steer.command(
    epilog=examples(
        "synthgen steer train --out walks.safetensors --edit zoom,brightness --steps 100",
        "synthgen steer show --walks walks.safetensors --out strip.png",
        "synthgen render --n 2k --out datasets/steered --views steer --walks walks.safetensors",
    )
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write.")
@click.option(
    "--edit", help="Of zoom,shift_x,shift_y,rotate,brightness,colour; a walk is learned for each.  [default: all]"
)
@click.option("--steps", type=int, help="Training steps, of 4 anchors each, walked along every edit.  [default: 600]")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@model_options
def train(quiet: bool, **options: Any) -> None:
    """Learn a linear walk for every edit.

    A walk w makes G(z + alpha w) as like the edited image of z as it can, alpha from -1 to 1 (Jahanian, Chai and Isola
    2020). What an edit brings in from outside the frame does not count. At the end every walk is judged on anchors that
    it has not seen: 100 % would be the edit itself, 0 % no change at all.
    """
    from synthgen.steer import train
    from synthgen.steer.learning import describe_walks

    walks = train(quiet=quiet, **given(options))
    for line in describe_walks(walks):
        click.echo(line)
    click.echo(f"wrote {options['out']}, {len(walks.names)} walks, sha256 {walks.sha256[:12]}")


@steer.command(
    epilog=examples(
        "synthgen steer show --out strip.png",
        "synthgen steer show --edits zoom,brightness --samples 2 --strength 2 --pixels --out pixels.png",
    )
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The PNG file to write.")
@click.option(
    "--walks", type=click.Path(path_type=Path), help="File of `synthgen steer train`.  [default: the package's own]"
)
@click.option("--edits", help="Which of its walks, such as zoom,brightness.  [default: all]")
@click.option("--samples", type=int, help="Anchors to walk from.  [default: 3]")
@click.option("--strength", type=float, help="Largest alpha.  [default: 1]")
@click.option("--pixels", is_flag=True, help="Beneath each row, the edit of pixels that the walk imitates.")
@click.option(
    "--classes", help="all, or as in synthgen render: ids such as 0,3,7, names, imagenet100, or a file.  [default: all]"
)
@model_options
def show(pixels: bool, **options: Any) -> None:
    """Draw images along walks.

    A row per edit and sample, a column per alpha.
    """
    from synthgen.steer import show

    click.echo(f"wrote {show(pixels=pixels, **given(options))}")
