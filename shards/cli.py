"""The command `shards`: look at a dataset, check it, see it, make one of real images."""

from __future__ import annotations

import os
from pathlib import Path

import click

from shards.commands.from_images import from_images
from shards.commands.to_ffcv import to_ffcv
from shards.console import CommandGroup, Count, echo_json, examples, json_option
from shards.errors import DamageError
from shards.quantities import format_bytes, format_seconds, format_things

_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
_MOST_PROBLEMS_SHOWN = 40
_GROUPS_PER_JOB = 50_000  # below this, starting a process costs more than it saves


@click.group(
    cls=CommandGroup,
    epilog=examples(
        "shards info datasets/tour",
        "shards verify datasets/tour",
        "shards preview datasets/tour --out sheet.png",
    ),
)
@click.version_option(package_name="synthgen", prog_name="shards")
def main() -> None:
    """Datasets of image groups in tar shards: look at one, check it, see it."""


@main.command(epilog=examples("shards info datasets/tour", "shards info datasets/tour --json"))
@_DIRECTORY
@json_option
def info(directory: Path, as_json: bool) -> None:
    """Show what DIR holds, and whether it is complete."""
    from shards.summary import info

    summary = info(directory)
    if as_json:
        echo_json(summary.to_json())
        return
    rows = summary.rows()
    width = max(len(name) for name, _ in rows)
    click.echo(f"{summary.directory}\n")
    for name, value in rows:
        click.echo(f"  {name:<{width}}  {value}")


@main.command(
    epilog=examples("shards verify datasets/tour", "shards verify datasets/tour --fast    # sizes and markers only")
)
@_DIRECTORY
@click.option("--fast", is_flag=True, help="Look at sizes and markers only.")
@click.option("--jobs", type=Count(), help="Processes that share the work.  [default: one per CPU, if worth it]")
@json_option
def verify(directory: Path, fast: bool, jobs: int | None, as_json: bool) -> None:
    """Check that DIR is what its manifest promises.

    Checksums, counts, keys and members, and that every image decodes. Exits with 0 when all is well, 1 when there is
    damage, 2 when DIR is no finished dataset.
    """
    from shards.manifest import load_manifest
    from shards.verification import verify

    if jobs is None:
        worth = 1 if fast else load_manifest(directory).num_groups // _GROUPS_PER_JOB
        jobs = max(1, min(worth, len(os.sched_getaffinity(0))))
    report = verify(directory, fast=fast, jobs=jobs, quiet=as_json)
    if as_json:
        echo_json(report.to_json())
    else:
        for problem in report.problems[:_MOST_PROBLEMS_SHOWN]:
            click.echo(problem)
        if len(report.problems) > _MOST_PROBLEMS_SHOWN:
            click.echo(f"and {len(report.problems) - _MOST_PROBLEMS_SHOWN} more (--json lists all)")
        for note in report.notes:
            click.echo(f"note: {note}")
    if not report.ok:
        count = len(report.problems)
        raise DamageError(f"{directory} is damaged: {format_things(count, 'problem')}; each line names its repair")
    if not as_json:
        checked = "sizes and markers agree" if fast else f"all {report.images} images decode, all checksums agree"
        click.echo(
            f"{directory} is sound: {format_things(report.groups, 'group')} in {format_things(report.shards, 'shard')} "
            f"({format_bytes(report.bytes)}), "
            f"{checked} ({format_seconds(report.seconds)})"
        )


@main.command(
    epilog=examples(
        "shards preview datasets/tour --out sheet.png",
        "shards preview datasets/tour --out later.png --first 1000 --groups 6 --scale 4",
    )
)
@_DIRECTORY
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The PNG file to write.")
@click.option("--groups", type=Count(), default=12, show_default=True, help="Rows: groups to show.")
@click.option("--first", type=int, default=0, show_default=True, help="Index of the first group.")
@click.option("--scale", type=Count(), help="Enlarge every image this many times.  [default: by its size]")
@json_option
def preview(directory: Path, out: Path, groups: int, first: int, scale: int | None, as_json: bool) -> None:
    """Draw a contact sheet of DIR, one row per group.

    A row is the anchor and its views.
    """
    from shards.manifest import load_manifest
    from shards.sheet import preview

    preview(directory, out=out, groups=groups, first=first, scale=scale)
    if as_json:
        shown = min(groups, load_manifest(directory).num_groups - first)
        echo_json({"out": str(out), "first": first, "groups": shown})
    else:
        click.echo(f"wrote {out}")


main.add_command(from_images)
main.add_command(to_ffcv)
