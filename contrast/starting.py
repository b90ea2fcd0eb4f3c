"""From what a person asks for to the configuration of a run: durations become steps, automatic choices are made once.

config = configure_run(shards="datasets/tour", out="runs/tour", epochs=20, settings={"objective": "supcon"})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrast.augment import AugmentConfig, parse_augment
from contrast.config import TrainConfig, steps_of
from contrast.devices import fastest_precision, resolve_device
from contrast.optimizer import default_settings
from contrast.run_folder import recorded_config
from shards.stream import open_dataset


def configure_run(
    *,
    shards: str | Path,
    out: str | Path,
    n: int | None = None,
    samples: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    precision: str = "auto",
    device: str = "auto",
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
    if precision == "auto":
        begun = recorded_config(Path(out))
        precision = begun.precision if begun is not None else fastest_precision(resolve_device(device))
    provisional = TrainConfig(**{**chosen, "steps": 1, "precision": precision})  # refuses wrong settings first
    if provisional.positives == "tz" and chosen.get("augment", AugmentConfig()) != AugmentConfig():
        raise ValueError("positives tz: these images are not augmented; leave --augment away, or use --positives both")
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
