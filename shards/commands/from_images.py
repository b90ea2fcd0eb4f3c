"""The command `shards from-images`: real labelled images in the format of rendered ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shards.console import Count, echo_json, examples, json_option
from shards.quantities import format_bytes, format_count, format_things


@click.command(
    name="from-images",
    epilog=examples(
        "shards from-images photos --out datasets/photos --size 64      # photos/[train|test]/CLASS/*.jpg",
        "shards from-images datasets/cifar10 --out datasets/real        # as contrast data cifar10 leaves it",
        "shards from-images datasets/cifar10 --out datasets/real-test --split test",
    ),
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the dataset.")
@click.option(
    "--n",
    type=Count(),
    help="Groups to pack, classes balanced; raise it to grow the dataset.  [default: all]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "test", "all"]),
    default="train",
    show_default=True,
    help="Without folders train/ and test/, every tenth image of a class is for testing.",
)
@click.option(
    "--size",
    type=Count(),
    help="Height and width: resized, then centre-cropped.  [default: the images' own]",
)
@click.option(
    "--format",
    type=click.Choice(["png", "jpg"]),
    default="png",
    show_default=True,
    help="png keeps every pixel.",
)
@click.option("--quality", type=int, help="Of jpg, 1 to 100.  [default: 95]")
@click.option("--shard-size", type=Count(), default="1000", show_default=True, help="Groups of a shard.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the order of the images.")
@json_option
def from_images(as_json: bool, **options: Any) -> None:
    """Pack the labelled images of SOURCE into a dataset.

    Its groups have one image, and its classes are balanced in every prefix. Interrupted, the same command goes on; with
    a larger --n it grows the dataset.
    """
    import shards

    manifest = shards.from_images(**options)
    if as_json:
        summary = {
            "out": str(options["out"]),
            "groups": manifest.num_groups,
            "shards": len(manifest.shards),
            "bytes": manifest.total_bytes,
            "classes": len(manifest.recipe.classes),
            "recipe_id": manifest.recipe.id,
        }
        echo_json(summary)
        return
    click.echo(
        f"{options['out']}: {format_count(manifest.num_groups)} images of {len(manifest.recipe.classes)} classes, "
        f"{manifest.recipe.image['size']} px {manifest.recipe.image['format']}, "
        f"{format_things(len(manifest.shards), 'shard')}, {format_bytes(manifest.total_bytes)}"
    )
