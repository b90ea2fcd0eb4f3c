"""View policies as options name them: one policy with its parameters, or a mixture written as text.

policy = policy_from_options("gaussian", std=0.3)
policy = policy_from_options("mixture:gaussian:std=0.3@0.5+independent@0.5")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthgen.vectors import package_vectors
from synthgen.views import POLICY_OF_FILE, ViewPolicy, make_policy
from synthgen.views.mixture import Mixture

_NUMBERS = ("std", "radius", "degrees", "strength")
_MIXTURE_EXAMPLE = "mixture:gaussian:std=0.3@0.5+independent@0.5"


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
            raise ValueError(f"mixture: write {name} beside its policy, as in {_MIXTURE_EXAMPLE}; omit --{name}")
    parsed = list(parse_mixture(views))
    for name, owner in POLICY_OF_FILE.items():
        if files[name] is not None and owner not in [policy for policy, _, _ in parsed]:
            raise ValueError(f"mixture: none of its policies has {name}: omit --{name}")
    components = []
    for policy, parameters, _ in parsed:
        own = {name: files[name] for name, owner in POLICY_OF_FILE.items() if owner == policy}
        components.append(_make_with_files(policy, parameters, own, generator))
    return Mixture(components=tuple(components), weights=tuple(weight for _, _, weight in parsed))


def _make_with_files(
    name: str, parameters: Mapping[str, Any], files: Mapping[str, Any], generator: str | None
) -> ViewPolicy:
    given = {**parameters, **files}
    if name == "steer" and given.get("walks") is None and generator is not None:
        given["walks"] = package_vectors("walks", generator)
    return make_policy(name, **given)


def parse_mixture(text: str) -> Iterator[tuple[str, dict[str, Any], float]]:
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
            if name in POLICY_OF_FILE:
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
