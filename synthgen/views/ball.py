"""Views anywhere in a ball around their anchor: no direction is preferred, and no step is longer than the radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.numbers import check_number
from synthgen.draws import LARGEST_STEP, draw_normal, draw_uniform


@dataclass(frozen=True, kw_only=True)
class Ball:
    """z_view = z + truncation * sqrt(dim) * r * n/|n| with n ~ N(0, 1)^dim and r = radius * u^(1/dim), u ~ U(0, 1).

    Uniform in the ball (Muller 1959 for the direction; the radius by inverting its distribution (r/radius)^dim). The
    unit sqrt(dim) makes `radius` comparable with the gaussian policy's std: it is the largest root-mean-square step of
    a coordinate. In many dimensions nearly all of a ball lies near its surface. The "ball" of GenRep's scripts draws
    every coordinate uniformly on its own, which fills a cube, whose corners are sqrt(dim) times as far away as its
    faces.
    """

    radius: float = 0.3
    """Root-mean-square step of a coordinate at the surface, in units of the truncation; 0 repeats the anchor."""

    name = "ball"
    vectors = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", check_number("radius", self.radius, 0, LARGEST_STEP, such_as="0.3"))

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe."""
        return {"policy": self.name, "radius": self.radius}

    def describe(self, *, truncation: float) -> str:
        """One line for people."""
        return f"ball, radius {self.radius:g} (a step of at most {truncation * self.radius:.3g} sqrt(dim))"

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents [B, dim] of the views and, per view, its policy and the radius r that was drawn."""
        count, dim = anchor.shape
        normal = draw_normal(seed=seed, stream=f"view/{view}", first=first, count=count, dim=dim)
        uniform = draw_uniform(seed=seed, stream=f"view/{view}/radius", first=first, count=count, dim=1)
        radii = np.round(self.radius * uniform ** (1.0 / dim), 6)  # applied as stored
        directions = normal / np.sqrt((normal * normal).sum(axis=1, keepdims=True))
        latents = anchor + truncation * math.sqrt(dim) * radii * directions
        return latents, [{"policy": self.name, "radius": radius} for radius in radii[:, 0].tolist()]
