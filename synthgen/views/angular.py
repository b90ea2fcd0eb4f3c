"""Views on the sphere of their anchor: the latent is turned, its length stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.numbers import check_number
from synthgen.draws import draw_normal, draw_uniform


@dataclass(frozen=True, kw_only=True)
class Angular:
    """z_view = cos(a) z + sin(a) |z| q, q a random unit vector across z, a = degrees * u with u ~ U(0, 1).

    A walk along a great circle, as spherical interpolation takes it (Shoemake 1985; White, "Sampling generative
    networks", 2016): the length of a normal latent hardly varies in many dimensions, so a generator has seen little
    besides that sphere. Every row has a length, a direction and an angle of its own; GenRep's script normalised over
    the whole batch.
    """

    degrees: float = 20.0
    """Largest angle between a view's latent and its anchor's; smaller ones are as likely."""

    name = "angular"
    vectors = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", check_number("degrees", self.degrees, 0, 180, such_as="20"))

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe."""
        return {"policy": self.name, "degrees": self.degrees}

    def describe(self, *, truncation: float) -> str:
        """One line for people."""
        return f"angular, up to {self.degrees:g} degrees at the anchor's length"

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents [B, dim] of the views and, per view, its policy and the angle that was drawn."""
        count, dim = anchor.shape
        if dim < 2:
            raise ValueError("angular views turn latents, and one of a single number cannot be turned: use gaussian")
        uniform = draw_uniform(seed=seed, stream=f"view/{view}/degrees", first=first, count=count, dim=1)
        degrees = np.round(self.degrees * uniform, 6)  # applied as stored
        across = draw_normal(seed=seed, stream=f"view/{view}", first=first, count=count, dim=dim)
        lengths = _lengths(anchor)
        along = anchor / np.where(lengths > 0, lengths, 1.0)
        across = across - (across * along).sum(axis=1, keepdims=True) * along
        angles = np.radians(degrees)
        latents = np.cos(angles) * anchor + np.sin(angles) * lengths * (across / _lengths(across))
        return latents, [{"policy": self.name, "degrees": angle} for angle in degrees[:, 0].tolist()]


def _lengths(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt((rows * rows).sum(axis=1, keepdims=True))
