"""Strips of images along learned walks, drawn to be looked at: a walk is as good as what can be seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shards.numbers import check_number
from shards.sheet import SheetRow, check_sheet_path, draw_rows, write_sheet
from synthgen.adapters import DEFAULT_GENERATOR
from synthgen.adapters.pixels import to_pixels
from synthgen.steer.edits import EDITS, apply_edit
from synthgen.vectors import VectorSet, package_vectors, read_vectors
from synthgen.views.samples import SampleOptions
from synthgen.views.steer import choose_edits

_NUM_ALPHAS = 7
_UNKNOWN = 0.6  # grey, in [-1, 1], of what lies outside the frame


def show(
    *,
    out: str | Path,
    walks: str | Path | None = None,
    edits: str | Sequence[str] | None = None,
    samples: int = 3,
    strength: float = 1.0,
    pixels: bool = False,
    classes: str | Sequence[int] = "all",
    generator: str = DEFAULT_GENERATOR,
    weights: str | Path | None = None,
    truncation: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Draws images along walks as a PNG: a row per edit and sample, a column per alpha from -strength to strength.

    Args:
        walks: a file of `train`; None for the package's own.
        edits: which of its walks; None for all.
        pixels: draws beneath each row the edit of pixels that the walk imitates; what it cannot know is grey.

    Raises:
        ValueError: walks of another generator, no such walk, or a file name that is not a .png.
    """
    path = check_sheet_path(out)
    strength = check_number("strength", strength, 0.01, 100, such_as="1")
    found = read_vectors(package_vectors("walks", generator) if walks is None else walks, kind="walks")
    names = choose_edits(edits or (), found)
    options = SampleOptions(
        samples=samples,
        classes=classes,
        generator=generator,
        weights=weights,
        truncation=truncation,
        seed=seed,
        device=device,
    )
    shown = options.draw(found)
    alphas = np.linspace(-strength, strength, _NUM_ALPHAS)
    rows = []
    for edit in names:
        for sample, name in enumerate(shown.names):
            strip = _walked(found, edit, shown.anchors[sample], alphas)
            images = shown.images(strip, shown.labels[sample].expand(len(strip)))
            rows.append(SheetRow(name=edit, detail=name, images=_to_images(images)))
            if pixels and edit in EDITS:
                edited = _edited(images[_NUM_ALPHAS // 2], edit, alphas)
                rows.append(SheetRow(name=edit, detail=f"{name}, in pixels", images=_to_images(edited)))
    sheet = draw_rows(
        title=f"Walks of {shown.generator.name}",
        facts=[f"walks {found.sha256[:12]}", f"truncation {truncation:g}", f"seed {seed}"],
        heads=[(f"alpha {alpha:+.2g}" if alpha else "anchor", "") for alpha in alphas.round(3).tolist()],
        rows=rows,
        wide_before=(_NUM_ALPHAS // 2, _NUM_ALPHAS // 2 + 1),
        together=2 if len(rows) == 2 * len(names) * len(shown.names) else 1,
        fewer="--samples or --edits",
    )
    return write_sheet(path, sheet)


def _walked(
    walks: VectorSet, edit: str, anchor: NDArray[np.float64], alphas: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Latents [alphas, latent_dim] along one walk through an anchor [latent_dim]."""
    return anchor + alphas[:, None] * walks.matrix[walks.names.index(edit)]


def _edited(anchor: torch.Tensor, edit: str, alphas: NDArray[np.float64]) -> torch.Tensor:
    """The anchor's pixels [3, H, W] edited with every alpha; grey where an edit has nothing to show."""
    factors = torch.from_numpy(alphas.astype(np.float32)).to(anchor.device)
    edited, mask = apply_edit(edit, anchor.expand(len(alphas), -1, -1, -1), factors)
    return edited * mask + _UNKNOWN * (1 - mask)


def _to_images(images: torch.Tensor) -> list[NDArray[np.uint8]]:
    return list(to_pixels(images).cpu().numpy())
