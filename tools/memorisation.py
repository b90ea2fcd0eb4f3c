"""Did the generator learn its training images by heart? The nearest ones of its samples, beside those of test images.

A generator that copies has samples that lie nearer to a training image than photographs which it never saw do.
Distances are taken in pixels (root mean square, of 255 levels, to the training image or its mirror image, since
training mirrors) and in Inception's features (cosine distance).

    contrast data cifar10 --out datasets/cifar10
    python tools/memorisation.py --data datasets/cifar10 --sheet docs/memorisation.png        # needs the extra: score

CIFAR-10's test images are no perfect yardstick: about 3 % have a near duplicate among the training images (Barz and
Denzler 2020), so their smallest distances are small.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from inception import NAME, extract_inception
from measuring import Program
from score_generator import sample, spread
from torch import Tensor

from shards.atomic import write_atomically
from shards.console import Count

CHUNK = 250
QUANTILES = (0.01, 0.05, 0.5)
NUM_PAIRS = 20


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The nearest training image of each of N images."""

    distance: np.ndarray
    """float32 [N]."""
    index: np.ndarray
    """int64 [N], positions among the training images."""


def nearest_by_pixels(images: Tensor, training: Tensor) -> Neighbours:
    """By root mean square difference of uint8 images [N, H, W, 3], to the training images or their mirror images."""
    best = [_nearest_rows(images, candidates) for candidates in (training, training.flip(2))]
    distances, indices = (torch.stack(part) for part in zip(*best, strict=True))
    distance, which = distances.min(dim=0)
    return Neighbours(distance=distance.numpy(), index=indices.gather(0, which[None])[0].numpy())


def _nearest_rows(images: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    queries, rows = (part.flatten(1).float() for part in (images, candidates))
    squares = rows.square().sum(1)
    distances, indices = [], []
    for block in queries.split(CHUNK):
        found, index = (squares - 2 * block @ rows.T).min(dim=1)
        distances.append((found + block.square().sum(1)).clamp(min=0))
        indices.append(index)
    return (torch.cat(distances) / queries.shape[1]).sqrt(), torch.cat(indices)


def nearest_by_features(features: np.ndarray, training: np.ndarray) -> Neighbours:
    """By cosine distance of features [N, F]."""
    queries, rows = (torch.nn.functional.normalize(torch.from_numpy(part), dim=1) for part in (features, training))
    found = [(block @ rows.T).max(dim=1) for block in queries.split(CHUNK)]
    similarity, index = (torch.cat(part) for part in zip(*found, strict=True))
    return Neighbours(distance=(1 - similarity).numpy(), index=index.numpy())


def compare(samples: Neighbours, test: Neighbours) -> dict[str, float]:
    """Quantiles of both, and the share of samples below the test images' first percentile: 1 % when they are alike."""
    figures = {}
    for name, neighbours in (("samples", samples), ("test", test)):
        for quantile in QUANTILES:
            figures[f"{name}_{quantile:.0%}"] = round(float(np.quantile(neighbours.distance, quantile)), 4)
    below = samples.distance < np.quantile(test.distance, 0.01)
    return figures | {"samples_below_test_1%": round(100 * float(below.mean()), 2)}


def draw_sheet(path: Path, panels: dict[str, tuple[Tensor, Tensor, Neighbours]]) -> None:
    """The closest pairs of every panel (images, training images, neighbours): image above, its neighbour below."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    figure = Figure(figsize=(14, 1.9 * len(panels)), layout="constrained")
    for axes, (title, (images, training, neighbours)) in zip(
        figure.subplots(len(panels), 1), panels.items(), strict=True
    ):
        closest = np.argsort(neighbours.distance)[:NUM_PAIRS]
        pairs = torch.stack([images[closest], training[neighbours.index[closest]]])  # [2, pairs, H, W, 3]
        axes.imshow(pairs.permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2).numpy(), interpolation="nearest")
        first, last = (f"{neighbours.distance[closest[end]]:.3g}" for end in (0, -1))
        axes.set_title(f"{title}: distances {first} … {last}", fontsize=10, loc="left")
        axes.set_axis_off()
    temporary = path.with_name(f".{path.name}.tmp.png")
    figure.savefig(temporary, dpi=110)
    write_atomically(path, temporary.read_bytes())
    temporary.unlink()


main = Program()


@main.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--generator", default="biggan-deep-32", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="As in synthgen render.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of `contrast data cifar10`.")
@click.option("--num", type=Count(), default="1k", show_default=True, help="Samples, and test images.")
@click.option("--sheet", type=click.Path(path_type=Path), help="PNG of the closest pairs.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("runs/features"), show_default=True)
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
def check(
    generator: str,
    weights: Path | None,
    data: Path,
    num: int,
    sheet: Path | None,
    cache: Path,
    precision: str,
    device: str,
) -> None:
    training = torch.from_numpy(np.load(data / "train-images.npy"))
    test = spread(torch.from_numpy(np.load(data / "test-images.npy")), num)
    samples, _ = sample(generator, weights=weights, truncation=1.0, count=num, seed=0, device=device)
    processes = len(os.sched_getaffinity(0)) if device == "cpu" else 1

    def read(images: Tensor) -> np.ndarray:
        return extract_inception(images, cache=cache, device=device, precision=precision, processes=processes)

    known = read(training)
    found = {
        "pixels": [nearest_by_pixels(images, training) for images in (samples, test)],
        "features": [nearest_by_features(read(images), known) for images in (samples, test)],
    }
    result = {name: compare(*pair) for name, pair in found.items()}
    click.echo(
        json.dumps({"num": num, "num_training": len(training), "network": f"{NAME} in {precision}", **result}, indent=1)
    )
    if sheet is not None:
        panels = {}
        for space, (of_samples, of_test) in found.items():
            panels[f"samples and their nearest training images, by {space}"] = (samples, training, of_samples)
            panels[f"held-out test images and theirs, by {space}"] = (test, training, of_test)
        draw_sheet(sheet, panels)
        click.echo(f"wrote {sheet}", err=True)


if __name__ == "__main__":
    main()
