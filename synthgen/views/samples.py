"""The anchors that a sheet shows: the first groups of a dataset with the same options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shards.numbers import check_whole
from synthgen.adapters import check_truncation, load_generator
from synthgen.adapters.protocol import Generator
from synthgen.classes import parse_classes
from synthgen.devices import choose_device
from synthgen.draws import draw_labels, draw_truncated_normal
from synthgen.vectors import VectorSet


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A generator and some anchors of it."""

    generator: Generator
    device: torch.device
    anchors: NDArray[np.float64]
    """[count, latent_dim]."""
    labels: torch.Tensor
    """int64 [count] on the device; 0 where there are no classes."""
    names: Sequence[str]
    """Of every anchor's class, or its number."""

    def images(self, latents: NDArray[np.float64], labels: torch.Tensor | None = None) -> torch.Tensor:
        """Images [N, 3, H, W] of latents [N, latent_dim], in [-1, 1], on the CPU; labels [N], the anchors' when None.

        A generator that takes batches of one size alone is given such, the last one filled up.
        """
        rows = torch.from_numpy(latents.astype(np.float32)).to(self.device)
        labels = self.labels if labels is None else labels
        size = self.generator.fixed_batch_size or len(rows)
        padding = -len(rows) % size
        rows = torch.cat([rows, rows[:1].expand(padding, -1)])
        labels = torch.cat([labels, labels[:1].expand(padding)])
        parts = zip(rows.split(size), labels.split(size), strict=True)
        images = torch.cat([self.generator.sample(part, part_labels).cpu() for part, part_labels in parts])
        return images[: len(latents)]


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Which generator, and which anchors of it; fields as the options of `synthgen render`."""

    samples: int
    """How many."""
    classes: str | Sequence[int]
    generator: str
    weights: str | Path | None
    truncation: float
    seed: int
    device: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", check_whole("samples", self.samples, 1, 100))
        object.__setattr__(self, "seed", check_whole("seed", self.seed, 0))
        object.__setattr__(self, "truncation", check_truncation(self.truncation))

    def draw(self, *fitting: VectorSet) -> Samples:
        """Loads the generator and draws the anchors.

        Args:
            fitting: walks or directions, which have to be of this generator.

        Raises:
            ValueError: an option cannot be used, or vectors are of another generator.
        """
        device = choose_device(self.device)
        generator = load_generator(self.generator, weights=self.weights, truncation=self.truncation, device=device)
        for vectors in fitting:
            vectors.check_generator(generator)
        latents = draw_truncated_normal(
            seed=self.seed, stream="anchor", first=0, count=self.samples, dim=generator.latent_dim
        )
        classes = parse_classes(self.classes, num_classes=generator.num_classes, class_names=generator.class_names)
        labels = draw_labels(seed=self.seed, first=0, count=self.samples, classes=classes)
        names = [
            generator.class_names[label] if generator.num_classes else f"sample {number}"
            for number, label in enumerate(labels.tolist())
        ]
        return Samples(
            generator=generator,
            device=device,
            anchors=self.truncation * latents,
            labels=torch.from_numpy(labels).clamp(min=0).to(device),
            names=names,
        )
