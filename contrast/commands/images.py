"""The command `contrast data images`: a dataset of torchvision as an image folder."""

from __future__ import annotations

from pathlib import Path

import click

from shards.console import examples
from shards.quantities import format_count


@click.command(epilog=examples("contrast data images STL10 --out datasets/stl10"))
@click.argument("name")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Where torchvision keeps it.  [default: the user's cache]"
)
def images(name: str, out: Path, root: Path | None) -> None:
    """Write a dataset of torchvision, by NAME, as an image folder.

    FOLDER/[train|test]/CLASS/*.png, as shards from-images reads it.
    """
    import contrast

    counts = contrast.data.images(name, out=out, root=root)
    click.echo(f"{out}: {', '.join(f'{format_count(count)} {split}' for split, count in counts.items())} images")
