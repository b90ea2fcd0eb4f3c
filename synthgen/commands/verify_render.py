"""`synthgen verify-render`: a sample of a dataset rendered again and compared with what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from shards.console import Count, echo_json, examples, json_option
from shards.errors import DamageError
from shards.quantities import format_seconds, format_things


@click.command(
    "verify-render",
    epilog=examples(
        "synthgen verify-render datasets/tour",
        "synthgen verify-render datasets/tour --groups 1k --seed 1",
        "synthgen verify-render datasets/tour --dtype float32    # what bfloat16 did to the pixels",
        "synthgen verify-render datasets/tour --no-compile       # what compiled passes did to them",
        "synthgen verify-render datasets/tour --device cpu       # how close another device comes",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--groups", type=Count(), default="64", show_default=True, help="How many to render again.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses them.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option(
    "--dtype",
    type=click.Choice(("same", "float32", "bfloat16")),
    default="same",
    show_default=True,
    help="same: the dataset's.",
)
@click.option("--compile/--no-compile", default=None, help="Compiled passes or not.  [default: as the dataset's]")
@click.option("--generator", help="The dataset's generator, where it is a module:function that you trust to be run.")
@click.option("--weights", type=click.Path(path_type=Path), help="As in synthgen render.")
@click.option("--walks", type=click.Path(path_type=Path), help="As in synthgen render.")
@click.option("--directions", type=click.Path(path_type=Path), help="As in synthgen render.")
@click.option(
    "--tolerance",
    type=float,
    help="In another environment: mean difference of an image, of 255.  [default: jpg 4, png 1.5]",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@json_option
def verify_render(directory: Path, quiet: bool, as_json: bool, **options: Any) -> None:
    """Render a sample of DIR again; compare plan, bytes, pixels.

    Exits with 0 when the plan is the same and the bytes are identical or, in another environment, every image is close;
    with 1 when the plan is not the recipe's, when bytes differ in the same environment, or when images are not close;
    with 2 when it cannot be tried.
    """
    from synthgen.verification import verify_render

    report = verify_render(directory, quiet=quiet or as_json, **options)
    if as_json:
        echo_json(report.to_json())
    else:
        for problem in (*report.sameness.plan_problems, *report.sameness.byte_problems):
            click.echo(problem)
    verdict = report.sameness.describe()
    if not report.ok:
        raise DamageError(f"{directory} is not what its recipe gives: {verdict}")
    if not as_json:
        click.echo(
            f"{directory} is what its recipe gives, by {report.generator} on {report.device} in {report.dtype}: "
            f"{verdict} ({format_things(report.blocks, 'block')}, {format_seconds(report.seconds)})"
        )
