"""The command `shards to-ffcv`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shards.console import Count, format_bytes, format_things


@click.command(name="to-ffcv")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write, such as DIR/groups.beton.")
@click.option("--n", type=Count(), help="The first so many groups only.  [default: all]")
@click.option("--mode", help="jpg: the JPEG files as they are; raw: pixels.  [default: jpg, for PNG datasets raw]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def to_ffcv(directory: Path, out: Path, n: int | None, mode: str | None, as_json: bool) -> None:
    """Convert DIR into FFCV's format, for `contrast train --reader ffcv` or any FFCV loader.

    Nothing is compressed again. Beside the file, OUT.json says of which dataset it is. Needs the extra ffcv: make
    setup-ffcv.
    """
    from shards.beton import to_ffcv

    record = to_ffcv(directory, out=out, n=n, mode=mode, quiet=as_json)
    if as_json:
        click.echo(json.dumps({"out": str(out), **record.to_json()}))
    else:
        click.echo(
            f"wrote {out}: {format_things(record.num_groups, 'group')}, {record.mode}, {format_bytes(record.bytes)}"
        )
