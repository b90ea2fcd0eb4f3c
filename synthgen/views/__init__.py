"""View policies: how the latent of a view comes from the latent of its group's anchor. One policy a file.

policy = make_policy("gaussian", std=0.3)
latents, parameters = policy.latents(anchor, seed=0, view=0, first=0, truncation=1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from synthgen.views.gaussian import Gaussian
from synthgen.views.independent import Independent


class ViewPolicy(Protocol):
    """What a view policy can do; its parameters go into the recipe, so equal recipes mean equal views."""

    @property
    def name(self) -> str:
        """The policy's name in the table and in the recipe."""

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe: its name and every parameter."""

    def describe(self, *, truncation: float) -> str:
        """One line for people: what the parameters mean at this truncation."""

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents of view number `view` of the groups first … first + B - 1, and what to store about each.

        anchor and result are [B, latent dimension], truncation applied. Row i depends on its own anchor and on (seed,
        view, index) alone.
        """


POLICIES: Mapping[str, Callable[..., ViewPolicy]] = {"gaussian": Gaussian, "independent": Independent}


def make_policy(name: str, **parameters: Any) -> ViewPolicy:
    """The policy of this name; parameters that are None are left at their defaults.

    Raises:
        ValueError: no such policy, a parameter that it does not have, or one out of its range.
    """
    if name not in POLICIES:
        raise ValueError(f"no view policy '{name}': choose one of {', '.join(POLICIES)}")
    given = {key: value for key, value in parameters.items() if value is not None}
    known = getattr(POLICIES[name], "__dataclass_fields__", {})
    for key in given:
        if key not in known:
            raise ValueError(f"view policy '{name}' has no {key}: leave --{key.replace('_', '-')} away")
    return POLICIES[name](**given)


def policy_from_recipe(entry: Mapping[str, Any]) -> ViewPolicy:
    """The policy that a recipe's entry describes; the inverse of `ViewPolicy.recipe`."""
    return make_policy(entry["policy"], **{key: value for key, value in entry.items() if key != "policy"})
