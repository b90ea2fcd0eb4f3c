"""How good a generator's images are: label agreement, and Fréchet distances beside those of real images.

Label agreement is the share of images in which a classifier trained on real images sees the class that was asked for.
The Fréchet distance compares generated and real training images in the features of a network; the same distance
between real test and real training images is the floor that nothing can be expected to beat. Both distances depend on
the number of images, which is therefore part of every figure.

    contrast data cifar10 --out datasets/cifar10
    python tools/score_generator.py --data datasets/cifar10 --num 10k                     # the classifier's features
    python tools/score_generator.py --data datasets/cifar10 --num 50k --features inception --precision bfloat16

The features of Inception need the extra `score`, and are kept in --cache: stopped, the same command goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from classifier import WEIGHTS, frechet_distance, load_classifier, read_off
from inception import NAME as INCEPTION
from inception import extract_inception
from measuring import Program
from torch import Tensor

from shards.console import Count
from shards.progress import Progress
from synthgen import load_generator
from synthgen.arithmetic import reproducible_arithmetic, set_forward_threads
from synthgen.devices import count_forward_threads
from synthgen.draws import draw_labels, draw_truncated_normal

BATCH_SIZE = 50

FIRST_HELD_OUT = 10**8
"""Index of the first image scored: far beyond any dataset, so that no score is taken on somebody's training groups."""


def sample(
    name: str, *, weights: Path | None, truncation: float, count: int, seed: int, device: str
) -> tuple[Tensor, Tensor]:
    """Images uint8 [count, H, W, 3] as `synthgen render` makes anchors, before any codec, and their labels."""
    generator = load_generator(name, weights=weights, truncation=truncation, device=device)
    classes, place = tuple(range(generator.num_classes)), torch.device(device)

    def block(first: int) -> tuple[Tensor, Tensor]:
        latents = truncation * draw_truncated_normal(
            seed=seed, stream="anchor", first=first, count=BATCH_SIZE, dim=generator.latent_dim, bound=2.0
        )
        labels = torch.from_numpy(draw_labels(seed=seed, first=first, count=BATCH_SIZE, classes=classes))
        return generator.render(torch.from_numpy(latents).float().to(place), labels.to(place)).cpu(), labels

    blocks = []
    with (
        Progress(total=count, unit="images", label="sampling") as progress,
        reproducible_arithmetic(place),
        ThreadPoolExecutor(count_forward_threads(place), "sample", set_forward_threads) as pool,
    ):
        for made in pool.map(block, range(FIRST_HELD_OUT, FIRST_HELD_OUT + count, BATCH_SIZE)):
            blocks.append(made)
            progress.advance(BATCH_SIZE)
    images, labels = (torch.cat(parts)[:count] for parts in zip(*blocks, strict=True))
    return images, labels


def spread(images: Tensor, count: int) -> Tensor:
    """`count` of the images, evenly spread over them."""
    return images[torch.linspace(0, len(images) - 1, count).long()]


def read_classifier(images: Tensor, *, device: str) -> np.ndarray:
    """The last features of tools/classifier.py's network: quick, and only to be compared with themselves."""
    return read_off(load_classifier(WEIGHTS, device), images)[0].cpu().numpy()


def rows(
    name: str,
    *,
    weights: Path | None,
    data: Path,
    num: int,
    num_real: int,
    read: Callable[[Tensor], np.ndarray],
    features: str,
    truncations: tuple[float, ...],
    device: str,
) -> Iterator[dict[str, object]]:
    """One row for the real test images, one per truncation; `read` gives the features that `features` names."""
    classifier = load_classifier(WEIGHTS, device)
    train = spread(torch.from_numpy(np.load(data / "train-images.npy")), num_real)
    test = spread(torch.from_numpy(np.load(data / "test-images.npy")), min(num, 10_000))
    truth = spread(torch.from_numpy(np.load(data / "test-labels.npy")).long(), min(num, 10_000))
    real = read(train)

    def row(title: str, images: Tensor, labels: Tensor) -> dict[str, object]:
        _, predictions = read_off(classifier, images)
        agreement = (predictions.cpu() == labels).float().mean().item()
        return {
            "images": title,
            "label_agreement": round(100 * agreement, 2),
            "frechet": round(frechet_distance(read(images), real), 2),
            "num": len(images),
            "num_real": len(train),
            "features": features,
        }

    yield row("real test images", test, truth)
    for truncation in truncations:
        images, labels = sample(name, weights=weights, truncation=truncation, count=num, seed=0, device=device)
        yield row(f"{name}, truncation {truncation:g}", images, labels)


main = Program()


@main.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--generator", default="biggan-deep-32", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="As in synthgen render.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of `contrast data cifar10`.")
@click.option("--num", type=Count(), default="10k", show_default=True, help="Generated images, and test images.")
@click.option("--num-real", type=Count(), help="Real training images that they are compared with.  [default: as many]")
@click.option("--features", type=click.Choice(["classifier", "inception"]), default="classifier", show_default=True)
@click.option("--truncation", multiple=True, type=float, default=(1.0,), show_default=True, help="May be repeated.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/features"), show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of Inception: bfloat16 takes half the time on a CPU that multiplies it, and is part of the figure.",
)
@click.option("--processes", type=int, help="That share Inception.  [default: one per core, one on a GPU]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row.")
def score(
    generator: str,
    weights: Path | None,
    data: Path,
    num: int,
    num_real: int | None,
    features: str,
    truncation: tuple[float, ...],
    device: str,
    cache: Path,
    precision: str,
    processes: int | None,
    as_json: bool,
) -> None:
    began = time.monotonic()
    read: Callable[[Tensor], np.ndarray]
    if features == "inception":
        shared = processes or (len(os.sched_getaffinity(0)) if device == "cpu" else 1)
        read = partial(extract_inception, cache=cache, device=device, precision=precision, processes=shared)
        title = f"{INCEPTION} in {precision}"
    else:
        read, title = partial(read_classifier, device=device), "classifier (tools/classifier.py)"
    counts = {"num": num, "num_real": min(num_real or num, 50_000)}
    settings = {"weights": weights, "data": data, "device": device, "read": read, "features": title}
    for row in rows(generator, truncations=truncation, **counts, **settings):
        if as_json:
            click.echo(json.dumps(row))
        else:
            click.echo(
                f"{row['images']:<32} label agreement {row['label_agreement']:5.1f} %   Fréchet distance "
                f"{row['frechet']:7.2f}  ({row['num']} against {row['num_real']} real, {row['features']})"
            )
    click.echo(f"{time.monotonic() - began:.0f} s on {device}, torch {torch.__version__}", err=True)


if __name__ == "__main__":
    main()
