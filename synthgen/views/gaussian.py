"""Views a Gaussian step away from their anchor, as in "Generative Models as a Data Source" (Jahanian et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.numbers import check_number
from synthgen.draws import LARGEST_STEP, draw_truncated_normal, truncated_normal_std


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """z_view = z + truncation * std * TN(-2, 2), every coordinate on its own; the class stays the anchor's.

    The paper's z' = z + w with w as its authors' code draws it: cut at two standard deviations and scaled by the
    truncation. Cutting leaves 0.88 of the nominal deviation. The paper's best: std 0.2 for BigBiGAN, 1.0 for BigGAN
    with class labels.
    """

    std: float = 0.3
    """Nominal standard deviation of the step, in units of the truncation; 0 repeats the anchor."""

    name = "gaussian"
    vectors = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", check_number("std", self.std, 0, LARGEST_STEP, such_as="0.3"))

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe."""
        return {"policy": self.name, "std": self.std}

    def effective_std(self, *, truncation: float) -> float:
        """Standard deviation of a step's coordinates as drawn, after cutting and truncation."""
        return truncation * self.std * truncated_normal_std()

    def describe(self, *, truncation: float) -> str:
        """One line for people: the nominal and the effective deviation."""
        return f"gaussian, std {self.std:g} ({self.effective_std(truncation=truncation):.3g} as drawn)"

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents [B, dim] of the views and, per view, its policy and std."""
        count, dim = anchor.shape
        step = draw_truncated_normal(seed=seed, stream=f"view/{view}", first=first, count=count, dim=dim)
        return anchor + truncation * self.std * step, [self.recipe() for _ in range(count)]
