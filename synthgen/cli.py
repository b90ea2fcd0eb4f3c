"""The command `synthgen`: render a dataset, and see which generators there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shards.console import CommandGroup, Count, SectionedCommand, echo_json, examples, json_option
from synthgen.commands.directions import directions
from synthgen.commands.status import status_command
from synthgen.commands.steer import steer
from synthgen.commands.verify_render import verify_render
from synthgen.commands.views import views

if TYPE_CHECKING:
    from synthgen.config import RenderConfig

_SECTIONS = {
    "What": ("n", "out", "manifest", "generator", "weights", "classes", "class_weights", "truncation", "seed"),
    "Views": ("views", "std", "radius", "degrees", "strength", "edits", "walks", "directions", "num_views"),
    "Images": ("size", "format", "quality", "store_latents", "shard_size"),
    "How": ("devices", "dtype", "batch_size", "compile", "dry_run", "quiet"),
    "Where": ("task_index", "task_count", "runner", "tasks", "slurm"),
}

_OWN_GENERATORS = """\b
Your own generator, in place of a name (docs/bring-your-own-generator.md):
  --generator module:function   a Python function that returns an object with latent_dim, image_size and
                                sample(latents, labels) -> images in [-1, 1]; and weights_sha256, unless
                                --weights is a file, whose sha256 is taken
  --generator FILE.pt2          a program saved by torch.export.save, latents [, classes] -> images;
                                synthgen.adapters.program_export writes one. Pickles are never loaded."""


@click.group(
    cls=CommandGroup,
    epilog=examples(
        "synthgen generators",
        "synthgen render --n 2k --out datasets/tour",
        "synthgen status datasets/tour",
    ),
)
@click.version_option(package_name="synthgen", prog_name="synthgen")
def main() -> None:
    """Render groups of images, an anchor and its views, from a pretrained generator."""


@main.command(
    cls=SectionedCommand,
    sections=_SECTIONS,
    epilog=examples(
        "synthgen render --n 2k --out datasets/tour",
        "synthgen render --n 2k --out datasets/tour    # again: resumes, or has nothing to do",
        "synthgen render --n 3k --out datasets/tour    # grows it: the first 2k stay as they are",
        "synthgen render --n 1.3M --out datasets/big --dry-run",
        "synthgen render --n 2k --out datasets/cats --classes cat --truncation 0.7 --std 0.5 --num-views 3",
        "synthgen render --from theirs/manifest.json --out datasets/theirs",
        "synthgen render --n 1.3M --out datasets/big --runner slurm --tasks 64 --slurm partition=gpu,gpus_per_node=1",
        "synthgen render --n 2k --out datasets/turned --views angular --degrees 20",
        "synthgen render --n 2k --out datasets/mixed --views mixture:gaussian:std=0.3@0.5+independent@0.5",
        "synthgen render --n 10k --out datasets/imagenet --generator biggan-deep-128 --weights ~/biggan-deep-128",
        "synthgen render --n 10k --out datasets/faces --generator faces.pt2",
        "shards preview datasets/tour --out sheet.png    # look at the result",
    ),
)
@click.option("--n", type=Count(), help="Number of groups: 1300000, 1.3M, 4k.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the dataset, new or to continue."
)
@click.option(
    "--from",
    "manifest",
    type=click.Path(path_type=Path),
    help="A manifest.json: render it again and compare. It fixes every option but paths, devices and runners.",
)
@click.option(
    "--generator", help="One of `synthgen generators`, module:function, or FILE.pt2.  [default: biggan-deep-32]"
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Folder or file of weights, in place of the usual ones."
)
@click.option(
    "--classes", help="all, ids such as 0,3,7, names, imagenet100, or a file with one per line.  [default: all]"
)
@click.option(
    "--class-weights", help="Relative frequency: 0:3,cat:2, or a file with one per line; others 1.  [default: uniform]"
)
@click.option("--truncation", type=float, help="In (0, 1]: lower gives better images, less variety.  [default: 1]")
@click.option("--seed", type=int, help="Seed of every random draw.  [default: 0]")
@click.option(
    "--views",
    help="How a view comes from its anchor: gaussian, independent, ball, angular, steer, directions, or a mixture "
    "(see the examples).  [default: gaussian]",
)
@click.option(
    "--std",
    type=float,
    help="gaussian: size of the step, in units of the truncation; directions: the same, 1 unless given.  "
    "[default: 0.3]",
)
@click.option("--radius", type=float, help="ball: longest step, in the unit of --std.  [default: 0.3]")
@click.option("--degrees", type=float, help="angular: largest angle; drawn from 0 up to it.  [default: 20]")
@click.option("--strength", type=float, help="steer: largest alpha; drawn from -STRENGTH to STRENGTH.  [default: 1]")
@click.option("--edits", help="steer: which walks, such as zoom,brightness.  [default: all in the file]")
@click.option(
    "--walks", type=click.Path(path_type=Path), help="steer: file of `synthgen steer train`.  [default: built-in]"
)
@click.option("--directions", type=click.Path(path_type=Path), help="directions: file of `synthgen directions`.")
@click.option("--num-views", type=int, help="Views per group, beside the anchor; 0 for anchors alone.  [default: 1]")
@click.option("--size", type=int, help="Pixels, height and width.  [default: the generator's]")
@click.option("--format", type=click.Choice(("jpg", "png")), help="[default: jpg]")
@click.option("--quality", type=int, help="jpg: 1 to 100.  [default: 95]")
@click.option("--store-latents", is_flag=True, default=None, help="Keep each group's latents beside its images.")
@click.option("--shard-size", type=Count(), help="Groups per tar.  [default: 1000]")
@click.option(
    "--devices",
    help="auto (all GPUs, or the CPU), cuda:0,cuda:1, cpu, cpu:2 (two processes), or cuda:0,cuda:0 (two on one GPU, "
    "for small images).  [default: auto]",
)
@click.option("--dtype", type=click.Choice(("auto", "float32", "bfloat16")), help="[default: auto]")
@click.option("--batch-size", type=int, help="Images per forward pass; fixed for a dataset.  [default: by device]")
@click.option(
    "--compile/--no-compile",
    default=None,
    help="Fuse the forward passes with torch.compile: 1.5 times as fast on a CPU with AMX (elsewhere compare with "
    "--dry-run), but half a minute to start, and the last bits differ; fixed for a dataset.  [default: no]",
)
@click.option("--task-index", type=int, help="Render one task's shards only, from 0 on.  [default: a Slurm array's]")
@click.option("--task-count", type=int, help="Number of tasks that the job is split into.  [default: a Slurm array's]")
@click.option("--runner", type=click.Choice(("local", "slurm", "ray")), help="Who runs the tasks.  [default: local]")
@click.option("--tasks", type=int, help="slurm, ray: number of tasks to split the job into.  [default: by the cluster]")
@click.option("--slurm", help="slurm: options of sbatch, such as partition=gpu,gpus_per_node=1,time=60.")
@click.option("--dry-run", is_flag=True, help="Print shards, bytes, time and disk space; write nothing.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def render(dry_run: bool, quiet: bool, **options: Any) -> None:
    """Render N groups into the folder OUT.

    Stopped at any time, even by a power cut, the same command continues; with a larger --n it grows the dataset.
    Group i depends on the options and on i alone, so a smaller dataset is the beginning of a larger one.
    """
    from synthgen.config import RenderConfig, check_beside_manifest
    from synthgen.rendering import render_dataset

    given = {name: value for name, value in options.items() if value is not None}
    if "manifest" in given:
        check_beside_manifest(given)
    config = RenderConfig(**given)
    if dry_run:
        _estimate(config)
    elif config.manifest is None:
        render_dataset(config, quiet=quiet)
    else:
        from synthgen.reproduction import reproduce_dataset

        report = reproduce_dataset(config, quiet=quiet)
        if report is not None:  # None while shards of other tasks are missing, which was said
            click.echo(f"{config.out}: {report.describe()}")


def _estimate(config: RenderConfig) -> None:
    from synthgen.estimate import AbsentWeights, estimate_request

    try:
        estimate = estimate_request(config)
    except AbsentWeights as absent:
        click.echo("\n".join(absent.lines()))
        return
    click.echo("\n".join(estimate.lines()))
    estimate.check_room()


main.add_command(status_command)


@main.command(epilog=examples("synthgen generators", "synthgen generators --json") + f"\n\n{_OWN_GENERATORS}")
@json_option
def generators(as_json: bool) -> None:
    """List the generators, and whether their weights are here."""
    from synthgen.adapters import generators

    rows = generators()
    if as_json:
        echo_json(rows)
        return
    click.echo(
        f"{'name':<17}{'pixels':>7}{'classes':>9}{'parameters':>12}{'GFLOP/image':>13}  {'learned from':<13}weights"
    )
    for row in rows:
        parameters = f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else "?"
        gflop = f"{row['flops_per_image'] / 1e9:.2f}" if row["flops_per_image"] else "?"
        click.echo(
            f"{row['name']:<17}{row['image_size']:>7}{row['classes'] or '?':>9}{parameters:>12}{gflop:>13}  "
            f"{row['learned_from']:<13}{row['weights'] or 'not here'}"
        )


main.add_command(directions)
main.add_command(steer)
main.add_command(verify_render)
main.add_command(views)
