"""View policies: how the latent of a view comes from the latent of its group's anchor. One policy a file.

policy = make_policy("gaussian", std=0.3)
latents, parameters = policy.latents(anchor, seed=0, view=0, first=0, truncation=1.0)

A policy's parameters go into the recipe, and policies that walk along vectors pin those by the sha256 of their file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.canonical import shorten
from synthgen.adapters import DEFAULT_GENERATOR
from synthgen.vectors import VectorFiles, VectorSet, package_vectors
from synthgen.views.angular import Angular
from synthgen.views.ball import Ball
from synthgen.views.directions import Directions
from synthgen.views.gaussian import Gaussian
from synthgen.views.independent import Independent
from synthgen.views.mixture import Mixture
from synthgen.views.steer import Steer


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
_NUMBERS = ("std", "radius", "degrees", "strength")
_FILES = ("walks", "directions")
_MIXTURE_EXAMPLE = "mixture:gaussian:std=0.3@0.5+independent@0.5"


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
            raise ValueError(f"view policy '{name}' has no {key}: leave --{key.replace('_', '-')} away")
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
    for kind in _FILES:
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


def policy_from_options(
    views: str,
    *,
    generator: str | None = None,
    std: float | None = None,
    radius: float | None = None,
    degrees: float | None = None,
    strength: float | None = None,
    edits: str | Sequence[str] | None = None,
    walks: str | Path | None = None,
    directions: str | Path | None = None,
) -> ViewPolicy:
    """The policy that a command's options amount to.

    Args:
        views: a policy's name, or mixture:POLICY[:NAME=VALUE …]@WEIGHT+…, each policy with parameters of its own.
        generator: whose walks in the package serve where none are given.

    Raises:
        ValueError: no such policy, or an option that is not its own.
    """
    numbers: dict[str, Any] = {"std": std, "radius": radius, "degrees": degrees, "strength": strength, "edits": edits}
    files: dict[str, Any] = {"walks": walks, "directions": directions}
    if not views.startswith("mixture"):
        return _make_with_files(views, numbers, files, generator)
    for name, value in numbers.items():
        if value is not None:
            raise ValueError(f"mixture: write {name} beside its policy, as in {_MIXTURE_EXAMPLE}; leave --{name} away")
    parsed = list(_parse_mixture(views))
    for name, needed_by in (("walks", "steer"), ("directions", "directions")):
        if files[name] is not None and needed_by not in [policy for policy, _, _ in parsed]:
            raise ValueError(f"mixture: none of its policies has {name}: leave --{name} away")
    components = []
    for policy, parameters, _ in parsed:
        own = {"steer": "walks", "directions": "directions"}.get(policy)
        components.append(_make_with_files(policy, parameters, {own: files[own]} if own else {}, generator))
    return Mixture(components=tuple(components), weights=tuple(weight for _, _, weight in parsed))


def _make_with_files(
    name: str, parameters: Mapping[str, Any], files: Mapping[str, Any], generator: str | None
) -> ViewPolicy:
    given = {**parameters, **files}
    if name == "steer" and given.get("walks") is None and generator is not None:
        given["walks"] = package_vectors("walks", generator)
    return make_policy(name, **given)


def _parse_mixture(text: str) -> Iterator[tuple[str, dict[str, Any], float]]:
    """(policy, parameters, weight) of every part of mixture:POLICY[:NAME=VALUE …]@WEIGHT+…"""
    head, _, body = text.partition(":")
    if head != "mixture" or not body:
        raise ValueError(f"views '{text}': write a mixture as {_MIXTURE_EXAMPLE}")
    for part in body.split("+"):
        spec, at, weight = part.rpartition("@")
        policy, *assignments = spec.split(":")
        if "@" in spec:
            raise ValueError(f"mixture: '{part}' has two weights; join the parts with +, as in {_MIXTURE_EXAMPLE}")
        if not at:
            raise ValueError(f"mixture: '{part}' has no weight; write {part}@0.5")
        if policy == "mixture":
            raise ValueError("mixture: a mixture cannot hold another one; name its policies instead")
        parameters: dict[str, Any] = {}
        for assignment in assignments:
            name, equals, value = assignment.partition("=")
            if name in _FILES:
                raise ValueError(f"mixture: give {name} as --{name} FILE, not inside the mixture")
            if not equals or name not in (*_NUMBERS, "edits"):
                raise ValueError(f"mixture: '{assignment}' is no parameter; write one as in {_MIXTURE_EXAMPLE}")
            if name in parameters:
                raise ValueError(f"mixture: '{part}' gives {name} twice; give it once")
            parameters[name] = _number(value, assignment) if name in _NUMBERS else value
        yield policy, parameters, _number(weight, part)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"mixture: '{text}' in '{where}' is not a number; write one such as 0.5") from None


def show(
    *,
    out: str | Path,
    policy: str | Sequence[str] = "gaussian",
    std: str | float | Sequence[float] | None = None,
    radius: str | float | Sequence[float] | None = None,
    degrees: str | float | Sequence[float] | None = None,
    strength: str | float | Sequence[float] | None = None,
    edits: str | Sequence[str] | None = None,
    walks: str | Path | None = None,
    directions: str | Path | None = None,
    samples: int = 6,
    classes: str | Sequence[int] = "all",
    generator: str = DEFAULT_GENERATOR,
    weights: str | Path | None = None,
    truncation: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Draws a contact sheet as a PNG: a row per sample, the anchor and its views by each policy at each strength.

    Args:
        policy: names such as "gaussian,ball", or one mixture.
        std, radius, degrees, strength: values of a policy's strength, such as "0.1,0.2"; None for a useful range.

    Raises:
        ValueError: no such policy, an option that none of them has, or a file name that is not a .png.
    """
    from synthgen.views.contact_sheet import draw_contact_sheet
    from synthgen.views.samples import SampleOptions

    return draw_contact_sheet(
        out=out,
        policy=policy,
        strengths={"std": std, "radius": radius, "degrees": degrees, "strength": strength},
        edits=edits,
        walks=walks,
        directions=directions,
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
