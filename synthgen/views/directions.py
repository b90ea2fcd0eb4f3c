"""Views in the plane of a few directions that the generator reacts to most, found without learning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.numbers import check_number
from synthgen.draws import LARGEST_STEP, draw_truncated_normal, truncated_normal_std
from synthgen.vectors import VectorSet, read_vectors


@dataclass(frozen=True, kw_only=True)
class Directions:
    """z_view = z + truncation * std * sum over k of s_k d_k, s_k ~ TN(-2, 2), d_k unit directions; the class stays.

    Directions by SeFa (Shen and Zhou 2021) or as in GANSpace (Härkönen et al. 2020), from `synthgen directions`. At
    std 1 the step along each direction varies as the latents do (two of them differ by sqrt 2 of that); across them
    there is none.
    """

    directions: VectorSet
    """The directions, or from Python and the command line the path of their file."""
    std: float = 1.0
    """Nominal standard deviation of the step along each direction, in units of the truncation."""

    name = "directions"

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", check_number("std", self.std, 0, LARGEST_STEP, such_as="1"))
        if not isinstance(self.directions, VectorSet):
            object.__setattr__(self, "directions", read_vectors(Path(self.directions), kind="directions"))
        lengths = np.linalg.norm(self.directions.matrix, axis=1)
        if not np.allclose(lengths, 1, rtol=0, atol=1e-3):
            raise ValueError(
                f"the directions {self.directions.sha256[:12]}… are no unit vectors (lengths from {lengths.min():.3g} "
                f"to {lengths.max():.3g}): make some with synthgen directions"
            )

    @property
    def vectors(self) -> tuple[VectorSet, ...]:
        """What the recipe pins beside the parameters."""
        return (self.directions,)

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe."""
        return {"policy": self.name, "directions_sha256": self.directions.sha256, "std": self.std}

    def describe(self, *, truncation: float) -> str:
        """One line for people: the nominal and the effective deviation."""
        drawn = truncation * self.std * truncated_normal_std()
        count = len(self.directions.names)
        return f"{count} directions {self.directions.sha256[:12]}, std {self.std:g} ({drawn:.3g} as drawn)"

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents [B, dim] of the views and, per view, its policy and the steps std * s_k."""
        matrix = self.directions.matrix
        draws = draw_truncated_normal(
            seed=seed, stream=f"view/{view}/directions", first=first, count=len(anchor), dim=len(matrix)
        )
        steps = np.round(self.std * draws, 6)  # applied as stored
        latents = anchor
        for number, direction in enumerate(matrix):  # not a matrix product, whose bits depend on the number of rows
            latents = latents + truncation * steps[:, number : number + 1] * direction
        return latents, [{"policy": self.name, "steps": row} for row in steps.tolist()]
