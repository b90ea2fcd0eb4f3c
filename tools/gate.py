"""Whether reading, augmentation, loss, loop and scores are right together: known results on real CIFAR-10, or exit 1.

    python tools/gate.py                       # a GPU: ResNet-18, 100 epochs of SimCLR against published figures
    python tools/gate.py --readers tar,ffcv    # the same through every reader
    python tools/gate.py --short               # two CPU cores, under 20 minutes: an order that has to come out

The photographs go through shards like rendered groups do. Interrupted, the same command goes on; what this very code
has trained already, with these versions on this device, is used again, and so is what it has packed: the folders are
named after all that.

The full form is the usual recipe (ResNet-18 with the CIFAR stem, batch 512, SGD 0.06 * batch / 256, weight decay 5e-4,
temperature 0.5, crops from 0.2 of the area, grayscale 0.1, head 512-1024-128, 100 epochs). The short form asks that
labels help, that colour augmentation does, and that training does: supcon > simclr > simclr without colours > the
untrained encoder, in every seed, by kNN.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch
from measuring import Program, describe_machine, format_machine

import contrast
import shards
from contrast.augment import AugmentConfig
from contrast.commands.lists import Names
from contrast.devices import resolve_device
from contrast.evaluation.results import Score
from contrast.readers import choose_reader
from contrast.runlog import read_metrics
from shards.atomic import write_atomically
from shards.beton import BETON_NAME, record_path
from shards.canonical import JSON
from shards.console import Count, format_table

RECIPE = {
    "objective": "simclr",
    "positives": "tx",
    "encoder": "resnet18",
    "batch_size": 512,
    "optimizer": "sgd",
    "learning_rate": 0.12,
    "weight_decay": 0.0005,
    "temperature": 0.5,
    "head_hidden_dim": 1024,
    "head_dim": 128,
    "augment": AugmentConfig(gray=0.1),
}
EXPECTED = {"knn": (83.2, 0.6), "linear": (85.6, 0.6), "loss": (5.18, 0.03)}
"""Value after 100 epochs, and how far from it is still right: three standard deviations between seeds."""

SHORT_RECIPE = {"positives": "tx", "encoder": "convnet-small", "batch_size": 128, "temperature": 0.1}
SHORT_METHODS: dict[str, dict[str, Any]] = {
    "supcon": {"objective": "supcon"},
    "simclr": {"objective": "simclr"},
    "no-jitter": {"objective": "simclr", "augment": AugmentConfig(jitter=0.0, gray=0.0)},
}
ORDER = ("supcon", "simclr", "no-jitter", "random")
"""Best first."""

main = Program()


@main.command(help=(__doc__ or "").replace("\n\n    python", "\n\n\b\n    python"))
@click.option("--short", is_flag=True, help="The ordering on a CPU instead of the figures on a GPU.")
@click.option("--readers", type=Names(), default="tar", show_default=True, help="Full form: readers to go through.")
@click.option("--seeds", type=Count(), default="3", show_default=True, help="Short form: training seeds, 0, 1, …")
@click.option("--n", type=Count(), default="10k", show_default=True, help="Short form: photographs to learn from.")
@click.option("--steps", type=Count(), default="500", show_default=True, help="Short form: steps of every run.")
@click.option("--data", type=click.Path(path_type=Path), default=Path("datasets/cifar10"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/gate"), show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; it lies in OUT as well.")
def gate(
    short: bool,
    readers: tuple[str, ...],
    seeds: int,
    n: int,
    steps: int,
    data: Path,
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    for reader in readers:
        choose_reader(reader, data)
    place = resolve_device(device)
    gpu = torch.cuda.get_device_name(place) if place.type == "cuda" else None
    machine = describe_machine(("torch", "torchvision", "numpy", "pillow", "ffcv"), gpu=gpu)
    contrast.data.cifar10(out=data)
    parts = pack(data, out, versions=machine["versions"])
    form = "short" if short else "full"
    folder = out / f"{form}-{hash_run(machine)}"
    if short:
        result = run_short(parts, folder, seeds=seeds, n=n, steps=steps, device=device)
        lines = format_short(result)
    else:
        result = run_full(parts, folder, readers=readers, device=device)
        lines = format_full(result)
    result["machine"] = machine
    path = out / f"{form}.json"
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
    lines += ["", *format_machine(machine), "", f"{'passed' if result['passed'] else 'FAILED'}: {path}"]
    click.echo(json.dumps(result, indent=1) if as_json else "\n".join(lines))
    if not result["passed"]:
        click.get_current_context().exit(1)


def pack(data: Path, out: Path, *, versions: Mapping[str, str]) -> dict[str, Path]:
    """The photographs of both splits in shards, packed anew where this code or these versions have not packed them."""
    digits = hash_sources(shards, facts={name: versions[name] for name in ("numpy", "pillow")})
    parts = {split: out / f"cifar10-{split}-{digits}" for split in ("train", "test")}
    for split, folder in parts.items():
        shards.from_images(data, out=folder, split=split)
    return parts


def hash_run(machine: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of what decides a run's figures: the sources, the versions and the device."""
    return hash_sources(contrast, shards, facts=[machine["gpu"] or machine["cpu"], machine["versions"]])


def hash_sources(*packages: ModuleType, facts: JSON) -> str:
    """Eight hexadecimal digits of the sources of packages, of this program, and of what they run with."""
    folders = [Path(package.__file__ or "").parent for package in packages]
    files = [Path(__file__), *(path for folder in folders for path in sorted(folder.rglob("*.py")))]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


# ---------------------------------------------------------------------------------------------------------------------
# Full form


def run_full(parts: Mapping[str, Path], out: Path, *, readers: tuple[str, ...], device: str) -> dict[str, Any]:
    """Trains and scores through every reader, and holds the figures against EXPECTED."""
    if "ffcv" in readers:
        beton = parts["train"] / BETON_NAME
        if not record_path(beton).exists():  # it is written last
            shards.to_ffcv(parts["train"], out=beton)
    runs = {}
    for reader in readers:
        settings = RECIPE if reader == "tar" else {**RECIPE, "reader": reader}
        run = out / reader
        contrast.train(shards=parts["train"], out=run, epochs=100, device=device, **settings)
        score = score_run(run, parts, scores=("knn", "linear"), num_train=None, device=device)["trained"]
        figures = {"knn": score.knn, "linear": score.linear, "loss": loss_of_last_epoch(run)}
        runs[reader] = {"figures": figures, "wrong": find_wrong(figures)}
    return {"expected": EXPECTED, "readers": runs, "passed": not any(run["wrong"] for run in runs.values())}


def find_wrong(figures: Mapping[str, float]) -> list[str]:
    """The figures that are further from what is expected than they may be."""
    return [name for name, (value, margin) in EXPECTED.items() if not abs(figures[name] - value) <= margin]


def loss_of_last_epoch(run: Path) -> float:
    """Mean over the records of the last hundredth of the run."""
    metrics = read_metrics(run)
    last = metrics[-1]["step"]
    return round(statistics.mean(record["loss"] for record in metrics if record["step"] > 0.99 * last), 4)


def format_full(result: Mapping[str, Any]) -> list[str]:
    """A row per reader, under the row of what is expected."""
    expected = [f"{value} ± {margin}" for value, margin in result["expected"].values()]
    rows = [("expected", *expected)]
    for reader, run in result["readers"].items():
        cells = [f"{value:.2f}{' !' if name in run['wrong'] else ''}" for name, value in run["figures"].items()]
        rows.append((reader, *cells))
    return format_table(["CIFAR-10, ResNet-18, 100 epochs", *result["expected"]], rows)


# ---------------------------------------------------------------------------------------------------------------------
# Short form


def run_short(parts: Mapping[str, Path], out: Path, *, seeds: int, n: int, steps: int, device: str) -> dict[str, Any]:
    """Trains every method with every seed, and looks whether the scores are in ORDER."""
    knn: dict[str, list[float]] = {method: [] for method in ORDER}
    for seed in range(seeds):
        for method, settings in SHORT_METHODS.items():
            run = out / f"{method}-{seed}"
            contrast.train(
                shards=parts["train"], out=run, n=n, steps=steps, seed=seed, device=device, **SHORT_RECIPE, **settings
            )
            table = score_run(run, parts, scores=("knn",), num_train=n, device=device, random=method == "simclr")
            knn[method].append(table["trained"].knn or 0.0)
            if method == "simclr":  # of this seed, every method began with the same encoder
                knn["random"].append(table["random"].knn or 0.0)
    wrong = find_disorder(knn)
    return {"knn": knn, "order": list(ORDER), "n": n, "steps": steps, "wrong": wrong, "passed": not wrong}


def find_disorder(knn: Mapping[str, list[float]]) -> list[str]:
    """Every place, seed by seed, where a method is not ahead of the next of ORDER."""
    return [
        f"seed {seed}: {better} {knn[better][seed]:.1f}, {worse} {knn[worse][seed]:.1f}"
        for better, worse in pairwise(ORDER)
        for seed in range(len(knn[better]))
        if not knn[better][seed] > knn[worse][seed]
    ]


def format_short(result: Mapping[str, Any]) -> list[str]:
    """A row per method, a column per seed, and their mean."""
    num_seeds = len(result["knn"]["random"])
    rows = [
        (method, *(f"{score:.1f}" for score in scores), f"{statistics.mean(scores):.1f}")
        for method, scores in result["knn"].items()
    ]
    head = ["kNN (k = 10), %, best first", *(f"seed {seed}" for seed in range(num_seeds)), "mean"]
    return [*format_table(head, rows), *(f"not in order: {wrong}" for wrong in result["wrong"])]


# ---------------------------------------------------------------------------------------------------------------------
# Scores


def score_run(
    run: Path,
    parts: Mapping[str, Path],
    *,
    scores: tuple[str, ...],
    num_train: int | None,
    device: str,
    random: bool = False,
) -> dict[str, Score]:
    """Rows of the run's table."""
    evaluation = contrast.eval(
        run=run,
        data=str(parts["test"]),
        data_train=str(parts["train"]),
        num_train=num_train,
        scores=scores,
        k=10,
        controls=random,
        device=device,
    )
    return evaluation.tests[0].scores


if __name__ == "__main__":
    main()
