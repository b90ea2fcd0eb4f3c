"""`synthgen directions`: directions in latent space that a generator reacts to most."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from shards.console import examples
from synthgen.commands.model_options import given, model_options


@click.command(
    epilog=examples(
        "synthgen directions --out directions.safetensors",
        "synthgen directions --method pca --k 5 --out pca.safetensors",
        "synthgen render --n 2k --out datasets/directed --views directions --directions directions.safetensors",
    )
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write.")
@click.option(
    "--method",
    type=click.Choice(("sefa", "pca")),
    help="sefa: from the weights; pca: from activations, as GANSpace.  [default: sefa]",
)
@click.option("--k", type=int, help="Number of directions, the strongest first.  [default: 10]")
@click.option("--layer", type=int, help="pca: 0, the first linear layer, or a block after it.  [default: 0]")
@click.option("--samples", type=int, help="pca: latents to look at.  [default: 2000]")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@partial(model_options, draws="pca: ")
def directions(quiet: bool, **options: Any) -> None:
    """Find latent directions without learning.

    They are for --views directions of synthgen render.

    SeFa: Shen and Zhou 2021. GANSpace: Härkönen, Hertzmann, Lehtinen and Paris 2020.
    """
    from synthgen.latent_directions import directions

    found = directions(quiet=quiet, **given(options))
    shares = found.settings["shares"]
    noun = "energy of the weights" if found.settings["method"] == "sefa" else "variance of the activations"
    click.echo(f"{len(shares)} directions with {sum(shares):.0%} of the {noun}")
    click.echo(f"wrote {options['out']}, sha256 {found.sha256[:12]}")
