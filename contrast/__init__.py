"""Learns an encoder from groups of images that belong together, and scores it on real photographs.

    import contrast

    contrast.train(shards="datasets/tour", out="runs/tour", n=2000, epochs=5)
    contrast.eval(run="runs/tour", data="cifar10", data_root="datasets/cifar10", num_train=10_000)
    contrast.report(run="runs/tour", out="report.html")

Every command of `contrast --help` is a function of that name, with the command's options as its keywords (`contrast
data cifar10` is contrast.data.cifar10). torch is imported when the first of them is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrast import data

if TYPE_CHECKING:
    from contrast.comparison import Comparison
    from contrast.evaluation.results import Evaluation
    from contrast.exporting import Exported
    from contrast.run_options import TrainSummary

__all__ = ["compare", "data", "eval", "export", "report", "train"]


def train(
    *,
    shards: str | Path,
    out: str | Path,
    n: int | str | None = None,
    mix: str | None = None,
    reader: str | None = None,
    cache: str | Path | None = None,
    cache_bytes: int | str | None = None,
    beton: str | Path | None = None,
    samples: int | str | None = None,
    steps: int | str | None = None,
    epochs: float | None = None,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    workers: int | None = None,
    checkpoint_seconds: float = 60.0,
    compile: bool = False,
    tensorboard: bool = False,
    knn_every: int | str | None = None,
    knn_data: str | None = None,
    knn_data_root: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> TrainSummary:
    """Trains an encoder on a dataset of groups, or goes on with the run in `out`; see `contrast train --help`.

    Args:
        shards: the dataset's folder, or its address, such as s3://bucket/folder.
        n: the first n groups only.
        mix: real=DIR:SHARE, real images of another dataset in shards as a share of every batch.
        reader: tar, webdataset or ffcv, see contrast.readers; None takes tar for a folder, webdataset for an address.
        cache, cache_bytes: where shards from an address are kept, and how much of them.
        beton: FFCV's file, see shards.to_ffcv.
        samples, steps, epochs: the duration, exactly one of them: groups seen, optimiser steps, or passes. A count
            may be text, such as "1.3M", as on the command line.
        precision: float32, bfloat16, or auto: what the run began with, else what this device is fast at.
        knn_every, knn_data: steps between two kNN scores of the encoder so far, and labelled images for them, as eval
            takes them; neither changes the run.
        settings: further fields of contrast.config.TrainConfig, such as objective="supcon" or batch_size=512; augment
            may be text, such as "crop=0.3:1,blur=0.5".

    Raises:
        ValueError: something does not fit; the message says what to do.
        DamageError: the dataset or the checkpoint is damaged.
    """
    from contrast.readers import ORDER_OF_READER, choose_reader
    from contrast.run_options import RunOptions
    from contrast.starting import configure_run
    from contrast.training import train_encoder

    n = _count("n", n)
    mixed = None
    if mix is not None:
        from contrast.mixing import parse_mix

        mixed, settings["mix_share"] = parse_mix(mix)
    if "batch_size" in settings:
        settings["batch_size"] = _count("batch_size", settings["batch_size"])
    reader = choose_reader(reader, shards)
    settings.setdefault("order", ORDER_OF_READER[reader])
    config = configure_run(
        shards=shards,
        out=out,
        n=n,
        samples=_count("samples", samples),
        steps=_count("steps", steps),
        epochs=epochs,
        precision=precision,
        device=device,
        settings=settings,
    )
    options = {} if workers is None else {"num_workers": workers}
    return train_encoder(
        config,
        shards=shards,
        out=out,
        n=n,
        mix=mixed,
        options=RunOptions(
            device=device,
            reader=reader,
            cache=cache,
            cache_bytes=_count("cache_bytes", cache_bytes),
            beton=beton,
            num_threads=threads,
            checkpoint_seconds=checkpoint_seconds,
            compile=compile,
            tensorboard=tensorboard,
            knn_every=_count("knn_every", knn_every),
            knn_data=knn_data,
            knn_data_root=knn_data_root,
            quiet=quiet,
            **options,
        ),
    )


def eval(
    *,
    run: str | Path,
    data: str | Path | Sequence[str | Path] = (),
    data_train: str | None = None,
    data_root: str | Path | None = None,
    num_train: int | str | None = None,
    groups: str | Path | None = None,
    scores: Sequence[str] | None = None,
    k: int | Sequence[int] | None = None,
    controls: bool = True,
    device: str = "auto",
    threads: int | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Scores a run on labelled images, beside raw pixels and an untrained encoder; see `contrast eval --help`.

    Args:
        data: one source or several; the result has a test for each, in this order.
        scores: names such as ("knn", "linear", "rankme"); knn and linear, and with groups all of theirs, when None.

    Raises:
        ValueError: something does not fit; the message says what to do.
        DamageError: the checkpoint or an image is damaged.
    """
    from contrast.evaluation.scoring import evaluate_run

    return evaluate_run(
        run,
        data=data,
        data_train=data_train,
        data_root=data_root,
        num_train=_count("num_train", num_train),
        groups=groups,
        scores=scores,
        k=k,
        controls=controls,
        device=device,
        num_threads=threads,
        quiet=quiet,
    )


def compare(runs: Sequence[str | Path], *, out: str | Path | None = None) -> Comparison:
    """Puts runs side by side, and writes a page, a table or the curves to `out`; see `contrast compare --help`."""
    from contrast.comparison import check_out, compare_runs, write_comparison

    if out is not None:
        check_out(Path(out))
    comparison = compare_runs(runs)
    if out is not None:
        write_comparison(comparison, Path(out))
    return comparison


def export(run: str | Path, *, format: str, out: str | Path) -> Exported:
    """Writes the encoder of a run for another library, with a card beside it; see `contrast export --help`."""
    from contrast.exporting import export_run

    return export_run(Path(run), format=format, out=Path(out))


def report(*, run: str | Path, out: str | Path, sheet: str | Path | None = None) -> Path:
    """Writes one self-contained HTML page about a run; see `contrast report --help`."""
    from contrast.page import write_report

    return write_report(Path(run), Path(out), sheet=None if sheet is None else Path(sheet))


def _count(name: str, value: int | str | None) -> int | None:
    from shards.quantities import parse_count

    try:
        return None if value is None else parse_count(str(value))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
