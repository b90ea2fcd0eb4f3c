"""View policies: how the latent of a view comes from the latent of its group's anchor. One policy a file.

synthgen.views.show(policy="gaussian,ball", std="0.1,0.2", out="sheet.png")
policy = make_policy("gaussian", std=0.3)
latents, parameters = policy.latents(anchor, seed=0, view=0, first=0, truncation=1.0)

A policy's parameters go into the recipe, and policies that walk along vectors pin those by the sha256 of their file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.canonical import shorten
from synthgen.vectors import VectorFiles, VectorSet
from synthgen.views.angular import Angular
from synthgen.views.ball import Ball
from synthgen.views.directions import Directions
from synthgen.views.gaussian import Gaussian
from synthgen.views.independent import Independent
from synthgen.views.mixture import Mixture
from synthgen.views.steer import Steer

if TYPE_CHECKING:
    from synthgen.views.contact_sheet import show

__all__ = ["POLICIES", "POLICY_OF_FILE", "ViewPolicy", "make_policy", "policy_from_recipe", "show"]
_MODULES = {"show": "contact_sheet"}


class ViewPolicy(Protocol):
    """What a view policy can do; its parameters go into the recipe, so equal recipes mean equal views."""

    @property
    def name(self) -> str:
        """The policy's name in the table and in the recipe."""

    @property
    def vectors(self) -> tuple[VectorSet, ...]:
        """The walks or directions that it needs, beside what its recipe entry says; most policies need none."""

    def recipe(self) -> dict[str, Any]:
        """The policy's entry in a recipe: its name and every parameter."""

    def describe(self, *, truncation: float) -> str:
        """One line for people: what the parameters mean at this truncation."""

    def latents(
        self, anchor: NDArray[np.float64], *, seed: int, view: int, first: int, truncation: float
    ) -> tuple[NDArray[np.float64], list[dict[str, Any]]]:
        """Latents of view number `view` of the groups first … first + B - 1, and what to store about each.

        anchor and result are [B, latent dimension], truncation applied. Row i depends on its own anchor and on (seed,
        view, index) alone. What is stored has the same keys and types in every row.
        """


POLICIES: Mapping[str, Callable[..., ViewPolicy]] = {
    "gaussian": Gaussian,
    "independent": Independent,
    "ball": Ball,
    "angular": Angular,
    "steer": Steer,
    "directions": Directions,
    "mixture": Mixture,
}
POLICY_OF_FILE = {"walks": "steer", "directions": "directions"}
"""Which policy walks along the vectors of which file."""


def make_policy(name: str, **parameters: Any) -> ViewPolicy:
    """The policy of this name; parameters that are None are left at their defaults.

    Raises:
        ValueError: no such policy, a parameter that it does not have, or one out of its range.
    """
    if name not in POLICIES:
        raise ValueError(f"no view policy '{name}': choose one of {', '.join(POLICIES)}")
    given = {key: value for key, value in parameters.items() if value is not None}
    known = {field.name: field for field in fields(POLICIES[name])}  # type: ignore[arg-type]  # dataclasses, all of them
    for key in given:
        if key not in known:
            raise ValueError(f"view policy '{name}' has no {key}: omit --{key.replace('_', '-')}")
    for key, field in known.items():
        if key not in given and field.default is MISSING:
            raise ValueError(f"view policy '{name}' needs {key}: give --{key.replace('_', '-')}")
    return POLICIES[name](**given)


def policy_from_recipe(entry: Mapping[str, Any], *, vectors: VectorFiles | None = None) -> ViewPolicy:
    """The policy that a recipe's entry describes; the inverse of `ViewPolicy.recipe`.

    Args:
        vectors: where walks and directions are looked for, by sha256; the package's own need no mention.

    Raises:
        ValueError: the vectors that the entry names are in none of the files, or it names a file itself, or
            is none that a render writes.
    """
    vectors = vectors or VectorFiles()
    if not isinstance(entry, Mapping) or not isinstance(entry.get("policy"), str):
        raise ValueError(f"views: {shorten(entry)} names no policy: synthgen render did not write that manifest")
    parameters = {key: value for key, value in entry.items() if key != "policy"}
    for kind in POLICY_OF_FILE:
        if kind in parameters:  # a path in a stranger's manifest would be read
            raise ValueError(f"views: an entry names {kind} by a path: a recipe pins them by {kind}_sha256")
        if f"{kind}_sha256" in parameters:
            parameters[kind] = vectors.find(kind, parameters.pop(f"{kind}_sha256"))
    if entry["policy"] == "mixture":
        for key in ("weights", "components"):
            if not isinstance(parameters.get(key), list | tuple):
                raise ValueError(f"views: a mixture without {key}: synthgen render did not write that manifest")
        parameters["weights"] = tuple(parameters["weights"])
        parameters["components"] = tuple(policy_from_recipe(e, vectors=vectors) for e in parameters["components"])
    return make_policy(entry["policy"], **parameters)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
