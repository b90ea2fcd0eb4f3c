"""Views that share only the class with their anchor: the other end of the scale from an identical copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synthgen.draws import draw_truncated_normal


@dataclass(frozen=True, kw_only=True)
class Independent:
    """z_view = truncation * TN(-2, 2), drawn as an anchor is, from a stream of its own; the class stays the anchor's.

    The positives of supervised contrast (Khosla et al. 2020) made by a generator: two images of one class.
    """

    name = "independent"
    vectors = ()

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe."""
        return {"policy": self.name}

    def describe(self, *, truncation: float) -> str:
        """One line for people."""
        return "independent, the anchor's class and a latent of its own"

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents [B, dim] of the views and, per view, its policy."""
        count, dim = anchor.shape
        draws = draw_truncated_normal(seed=seed, stream=f"view/{view}", first=first, count=count, dim=dim)
        return truncation * draws, [self.recipe() for _ in range(count)]
