"""How far can a view walk before it shows something else? Sheets and figures for a range of gaussian deviations.

For every std a small dataset is rendered and looked at:

label       share of views in which the independent classifier sees the class that was asked for
agreement   share of views in which it sees what it sees in the view's anchor
identity    share of views whose most similar anchor among those of their class, by Inception features, is their own

    contrast data cifar10 --out datasets/cifar10
    python tools/std_curve.py --out runs/std                       # needs the extra: score
    python tools/std_curve.py --out runs/std --steps 400 --data datasets/cifar10

The policy `independent` (class alone) is the other end of the scale. With --steps an encoder is trained on every
dataset and scored on real test images.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from classifier import load_classifier, read_off
from inception import NAME, extract_inception
from measuring import Program

import contrast
import shards
import synthgen
from shards.atomic import write_atomically
from shards.console import Count, format_table

STDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHEET_GROUPS = 10


def identity_rate(anchors: np.ndarray, views: np.ndarray, labels: np.ndarray) -> float:
    """Share of rows i of views [N, F] whose most similar row of anchors [N, F] with the same label is i; by cosine."""
    anchors, views = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (anchors, views))
    hits = 0
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        hits += int((np.argmax(views[rows] @ anchors[rows].T, axis=1) == np.arange(len(rows))).sum())
    return hits / len(labels)


def measure(dataset: Path, *, num: int, cache: Path, precision: str) -> dict[str, float]:
    """The three shares for the first `num` groups of a dataset with one view a group."""
    images, labels = shards.GroupDataset(dataset, n=num).batch(range(num))
    pixels = torch.from_numpy(images)
    classifier = load_classifier()
    in_anchors, in_views = (read_off(classifier, pixels[:, member])[1].numpy() for member in (0, 1))
    processes = len(os.sched_getaffinity(0))
    anchors, views = (
        extract_inception(pixels[:, member].contiguous(), cache=cache, precision=precision, processes=processes)
        for member in (0, 1)
    )
    return {
        "label": round(100 * float((in_views == labels).mean()), 1),
        "agreement": round(100 * float((in_views == in_anchors).mean()), 1),
        "identity": round(100 * identity_rate(anchors, views, labels), 1),
    }


def learn(dataset: Path, run: Path, *, n: int, steps: int, data: Path) -> dict[str, float]:
    """kNN accuracy on real test images of an encoder trained on the dataset."""
    contrast.train(shards=dataset, out=run, n=n, steps=steps)
    evaluation = contrast.eval(run=run, data="cifar10", data_root=data, num_train=10_000)
    trained = evaluation.tests[0].scores["trained"]
    return {"knn": trained.knn, "linear": trained.linear}


main = Program()


@main.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for datasets, sheets and figures.")
@click.option("--num", type=Count(), default="1k", show_default=True, help="Groups behind the three shares.")
@click.option("--std", "stds", type=float, multiple=True, default=STDS, help="May be repeated.  [default: 0.1 … 1.0]")
@click.option("--steps", type=Count(), help="Also train an encoder for so many steps on each dataset.")
@click.option("--n", type=Count(), default="4k", show_default=True, help="Groups of each dataset for training.")
@click.option("--data", type=click.Path(path_type=Path), help="CIFAR-10, to score the encoders on.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
def curve(
    out: Path, num: int, stds: tuple[float, ...], steps: int | None, n: int, data: Path | None, precision: str
) -> None:
    if steps is not None and data is None:
        raise ValueError("--steps trains encoders, which are scored on photographs: give --data, too")
    policies: dict[str, dict[str, Any]] = {f"{std:g}": {"std": std} for std in stds}
    policies["independent"] = {"views": "independent"}
    rows: dict[str, dict[str, float]] = {}
    for name, options in policies.items():
        dataset = out / f"std-{name}"
        synthgen.render(n=max(num, n if steps else 0), out=dataset, **options)
        shown = out / f"shown-{name}"
        synthgen.render(n=SHEET_GROUPS, out=shown, num_views=7, quiet=True, **options)
        shards.preview(shown, out=out / f"std-{name}.png", groups=SHEET_GROUPS)
        rows[name] = measure(dataset, num=num, cache=out / "features", precision=precision)
        if steps is not None and data is not None:
            rows[name] |= learn(dataset, out / f"run-{name}", n=n, steps=steps, data=data)
        head = list(rows[name])
        click.echo(
            "\n".join(format_table(["std", *head], [[key, *map(str, row.values())] for key, row in rows.items()]))
        )
    result = {"num": num, "features": f"{NAME} in {precision}", "n": n, "steps": steps, "rows": rows}
    write_atomically(out / "curve.json", (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
