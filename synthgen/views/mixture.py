"""Views of several policies in one dataset: which of them made a view is drawn for that view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.numbers import check_number
from synthgen.draws import draw_uniform
from synthgen.vectors import VectorSet

if TYPE_CHECKING:
    from synthgen.views import ViewPolicy


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A view is made by policy p with probability weight_p, drawn from the index alone.

    Row i is the very row that its policy would have made on its own, so a mixture is a selection from the datasets of
    its policies. Weights are kept divided by their sum.
    """

    components: tuple[ViewPolicy, ...]
    weights: tuple[float, ...]

    name = "mixture"

    def __post_init__(self) -> None:
        if len(self.components) < 2 or len(self.components) != len(self.weights):
            raise ValueError("mixture: give two policies or more, and a weight for each")
        if any(isinstance(component, Mixture) for component in self.components):
            raise ValueError("mixture: a mixture cannot hold another one; name its policies instead")
        weights = [check_number("weight", weight, 0, 1_000_000, such_as="0.5") for weight in self.weights]
        if 0 in weights:
            raise ValueError("mixture: a weight of 0 draws nothing; omit that policy")
        total = math.fsum(weights)
        if abs(total - 1) > 1e-9:  # weights that add up to one stay as they were written
            weights = [weight / total for weight in weights]
        object.__setattr__(self, "weights", tuple(weights))

    @property
    def vectors(self) -> tuple[VectorSet, ...]:
        """What the recipe pins beside the parameters."""
        return tuple(found for component in self.components for found in component.vectors)

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe."""
        entries = [component.recipe() for component in self.components]
        return {"policy": self.name, "weights": list(self.weights), "components": entries}

    def describe(self, *, truncation: float) -> str:
        """One line for people."""
        parts = zip(self.weights, self.components, strict=True)
        return "mixture of " + " + ".join(f"{w:.3g} x ({c.describe(truncation=truncation)})" for w, c in parts)

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents [B, dim] of the views and, per view, the policy drawn and what it drew.

        All rows have the keys of all components, so that a table can be made of them; those of a policy that was not
        drawn are zero.
        """
        uniform = draw_uniform(seed=seed, stream=f"view/{view}/mixture", first=first, count=len(anchor), dim=1)[:, 0]
        bounds = np.cumsum(self.weights)[:-1]
        drawn = np.searchsorted(bounds, uniform, side="right")
        latents = np.empty_like(anchor)
        stored: list[dict[str, Any]] = [{} for _ in range(len(anchor))]
        empty: dict[str, Any] = {}
        for number, component in enumerate(self.components):
            made, parameters = component.latents(anchor, seed=seed, view=view, first=first, truncation=truncation)
            empty |= {key: _zero(value) for row in parameters[:1] for key, value in row.items() if key not in empty}
            for row in np.flatnonzero(drawn == number).tolist():
                latents[row] = made[row]
                stored[row] = parameters[row]
        return latents, [{**empty, **row, "policy": self.name, "drawn": row["policy"]} for row in stored]


def _zero(value: Any) -> Any:
    return [0.0] * len(value) if isinstance(value, list) else type(value)()
