"""The command `shards to-ffcv`."""

from __future__ import annotations

from pathlib import Path

import click

from shards.console import Count, echo_json, examples, json_option
from shards.quantities import format_bytes, format_things


@click.command(
    name="to-ffcv",
    epilog=examples(
        "shards to-ffcv datasets/tour --out datasets/tour/groups.beton",
        "shards to-ffcv datasets/tour --out first.beton --n 1k --mode raw",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write, such as DIR/groups.beton.")
@click.option("--n", type=Count(), help="Use only the first N groups.  [default: all]")
@click.option(
    "--mode",
    type=click.Choice(("jpg", "raw")),
    help="jpg: the JPEG files as they are; raw: pixels.  [default: jpg, for PNG datasets raw]",
)
@json_option
def to_ffcv(directory: Path, out: Path, n: int | None, mode: str | None, as_json: bool) -> None:
    """Convert DIR into a file in FFCV's format.

    `contrast train --reader ffcv` reads it, and so does any FFCV loader. Nothing is compressed again. OUT.json, beside
    the file, says which dataset it was made from. Needs the extra ffcv: make setup-ffcv.
    """
    from shards.converting import to_ffcv

    record = to_ffcv(directory, out=out, n=n, mode=mode, quiet=as_json)
    if as_json:
        echo_json({"out": str(out), **record.to_json()})
    else:
        click.echo(
            f"wrote {out}: {format_things(record.num_groups, 'group')}, {record.mode}, {format_bytes(record.bytes)}"
        )
