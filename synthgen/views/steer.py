"""Views along learned walks: the camera moved and the light changed, as far as the generator has learned to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.numbers import check_number
from synthgen.draws import LARGEST_STEP, draw_uniform
from synthgen.vectors import VectorSet, read_vectors


@dataclass(frozen=True, kw_only=True)
class Steer:
    """z_view = z + sum over edits of alpha_e w_e, every alpha_e ~ U(-strength, strength); the class stays the anchor's.

    Linear walks of "On the steerability of generative adversarial networks" (Jahanian, Chai and Isola 2020), all edits
    at once as in pixel augmentation. At alpha 1 a walk aims at its edit's full amount (`synthgen.steer.edits`):
    enlarged 1.6 times, a quarter of the frame, 30 degrees, 1.6 times as bright, twice as saturated. An edit's alphas
    come from a stream of its own name, so leaving one out changes no other.
    """

    walks: VectorSet
    """The walks, or from Python and the command line the path of their file."""
    edits: tuple[str, ...] = ()
    """Which of them to take, in the file's order; none named means all."""
    strength: float = 1.0
    """Largest alpha, either way."""

    name = "steer"

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", check_number("strength", self.strength, 0, LARGEST_STEP, such_as="1"))
        if not isinstance(self.walks, VectorSet):
            object.__setattr__(self, "walks", read_vectors(Path(self.walks), kind="walks"))
        object.__setattr__(self, "edits", choose_edits(self.edits, self.walks))

    @property
    def vectors(self) -> tuple[VectorSet, ...]:
        """What the recipe pins beside the parameters."""
        return (self.walks,)

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe."""
        return {
            "policy": self.name,
            "walks_sha256": self.walks.sha256,
            "edits": list(self.edits),
            "strength": self.strength,
        }

    def describe(self, *, truncation: float) -> str:
        """One line for people."""
        return f"steer along {', '.join(self.edits)} of walks {self.walks.sha256[:12]}, strength {self.strength:g}"

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents [B, dim] of the views and, per view, its policy and the alpha of every edit."""
        latents, drawn = anchor, {}
        for edit in self.edits:
            uniform = draw_uniform(seed=seed, stream=f"view/{view}/{edit}", first=first, count=len(anchor), dim=1)
            alphas = np.round(self.strength * (2.0 * uniform - 1.0), 6)  # applied as stored
            # Sums and products of single numbers: a matrix product's bits would depend on the number of rows.
            latents = latents + alphas * self.walks.matrix[self.walks.names.index(edit)]
            drawn[edit] = alphas[:, 0].tolist()
        return latents, [{"policy": self.name, **{e: drawn[e][i] for e in drawn}} for i in range(len(anchor))]


def choose_edits(edits: str | Sequence[str], walks: VectorSet) -> tuple[str, ...]:
    """The named edits (text with commas, or names) in the order of the walks; all of them where none is named.

    Raises:
        ValueError: no such walk, or one twice.
    """
    names = [part.strip() for part in edits.split(",")] if isinstance(edits, str) else list(edits)
    for name in names:
        if name not in walks.names:
            raise ValueError(f"edits: no walk '{name}' in the file: choose from {', '.join(walks.names)}")
        if names.count(name) > 1:
            raise ValueError(f"edits: {name} is given twice: give every edit once")
    return tuple(name for name in walks.names if name in names or not names)
