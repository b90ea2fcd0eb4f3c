"""From what a person asks for to the configuration of a run: durations become steps, automatic choices are made once.

config = configure_run(shards="datasets/tour", out="runs/tour", epochs=20, settings={"objective": "supcon"})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from contrast.augment import AugmentConfig, parse_augment
from contrast.batches import NUM_WORKERS
from contrast.config import TrainConfig, TrainSettings, steps_of
from contrast.devices import fastest_precision, resolve_device
from contrast.mixing import parse_mix
from contrast.optimizer import default_settings
from contrast.readers import ORDER_OF_READER, choose_reader
from contrast.run_folder import recorded_config
from contrast.run_options import RunOptions, TrainSummary
from contrast.training import train_encoder
from shards.stream import open_dataset

if TYPE_CHECKING:
    import torch


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
    device: str | torch.device = "auto",
    threads: int | None = None,
    workers: int = NUM_WORKERS,
    checkpoint_seconds: float = 60.0,
    compile: bool = False,
    tensorboard: bool = False,
    knn_every: int | str | None = None,
    knn_data: str | Path | None = None,
    knn_data_root: str | Path | None = None,
    quiet: bool = False,
    **settings: Unpack[TrainSettings],
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
        settings: fields of contrast.config.TrainConfig, such as objective="supcon" or batch_size=512; augment may be
            text, such as "crop=0.3:1,blur=0.5".

    Raises:
        ValueError: something does not fit; the message says what to do.
        DamageError: the dataset or the checkpoint is damaged.
    """
    mixed = None
    chosen: dict[str, Any] = dict(settings)
    if mix is not None:
        mixed, chosen["mix_share"] = parse_mix(mix)
    reader = choose_reader(reader, shards)
    chosen.setdefault("order", ORDER_OF_READER[reader])
    config = configure_run(
        shards=shards,
        out=out,
        n=n,
        samples=samples,
        steps=steps,
        epochs=epochs,
        precision=precision,
        device=device,
        settings=chosen,
    )
    options: dict[str, Any] = {  # their types settle in RunOptions
        "device": device,
        "reader": reader,
        "cache": cache,
        "cache_bytes": cache_bytes,
        "beton": beton,
        "num_threads": threads,
        "num_workers": workers,
        "checkpoint_seconds": checkpoint_seconds,
        "compile": compile,
        "tensorboard": tensorboard,
        "knn_every": knn_every,
        "knn_data": knn_data,
        "knn_data_root": knn_data_root,
        "quiet": quiet,
    }
    return train_encoder(config, shards=shards, out=out, n=n, mix=mixed, options=RunOptions(**options))


def configure_run(
    *,
    shards: str | Path,
    out: str | Path,
    n: int | str | None = None,
    samples: int | str | None = None,
    steps: int | str | None = None,
    epochs: float | None = None,
    precision: str = "auto",
    device: str | torch.device = "auto",
    settings: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The configuration of a run, before anything is written.

    Raises:
        ValueError: a setting is unknown or out of its range, or the duration is not given exactly once.
    """
    chosen = dict(settings or {})
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    unknown = sorted(set(chosen) - set(fields))
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r}: choose among {', '.join(fields)}")
    if isinstance(chosen.get("augment"), str):
        chosen["augment"] = parse_augment(chosen["augment"])
    elif isinstance(chosen.get("augment"), Mapping):
        raise ValueError("augment: give text such as crop=0.3:1,blur=0.5, or a contrast.augment.AugmentConfig")
    if precision == "auto":
        begun = recorded_config(Path(out))
        precision = begun.precision if begun is not None else fastest_precision(resolve_device(str(device)))
    provisional = TrainConfig(**{**chosen, "steps": 1, "precision": precision})  # refuses wrong settings first
    if provisional.positives == "tz" and chosen.get("augment", AugmentConfig()) != AugmentConfig():
        raise ValueError("positives tz: these images are not augmented; omit --augment, or use --positives both")
    defaults = default_settings(provisional.objective, provisional.optimizer, batch_size=provisional.batch_size)
    provisional = dataclasses.replace(provisional, **{k: v for k, v in defaults.items() if k not in chosen})
    count = steps_of(
        samples=samples,
        steps=steps,
        epochs=epochs,
        num_groups=len(open_dataset(shards, n=n)),
        batch_size=provisional.batch_size,
        num_generated=provisional.num_generated,
    )
    return dataclasses.replace(provisional, steps=count)
