"""Steering: walks in latent space along which a generator zooms, shifts, turns, brightens or colours its images.

import synthgen

synthgen.steer.train(out="walks.safetensors", edit="zoom,brightness")
synthgen.steer.show(walks="walks.safetensors", out="strip.png")
synthgen.render(n="1k", out="datasets/steered", views="steer", walks="walks.safetensors")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from synthgen.adapters import DEFAULT_GENERATOR
from synthgen.vectors import VectorSet

DEFAULT_STEPS = 600


def train(
    *,
    out: str | Path,
    edit: str | Sequence[str] | None = None,
    generator: str = DEFAULT_GENERATOR,
    weights: str | Path | None = None,
    truncation: float = 1.0,
    steps: int = DEFAULT_STEPS,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = True,
) -> VectorSet:
    """Learns one walk per edit, judges it on anchors that it has not seen, and writes all of them to `out`.

    Args:
        edit: `zoom,shift_x`, a list of names, or None for every edit.
        steps: of 4 anchors, each walked along every edit.

    Raises:
        ValueError: no such edit or generator, or a generator that lets no gradients through.
    """
    from synthgen.steer.learning import learn_walks

    return learn_walks(
        out=out,
        edit=edit,
        generator_name=generator,
        weights=weights,
        truncation=truncation,
        steps=steps,
        seed=seed,
        device=device,
        quiet=quiet,
    )


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
    from synthgen.steer.strips import draw_strips
    from synthgen.views.samples import SampleOptions

    return draw_strips(
        out=out,
        walks=walks,
        edits=edits,
        strength=strength,
        pixels=pixels,
        options=SampleOptions(
            samples=samples,
            classes=classes,
            generator=generator,
            weights=weights,
            truncation=truncation,
            seed=seed,
            device=device,
        ),
    )
