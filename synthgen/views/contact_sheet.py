"""A sheet that helps to choose views: the same anchors, and their views at several strengths of several policies.

The noise of a view does not depend on the strength, so along a row the same step becomes longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.sheet import SheetRow, check_sheet_path, draw_rows, write_sheet
from synthgen.adapters import DEFAULT_GENERATOR
from synthgen.adapters.pixels import to_pixels
from synthgen.views import POLICY_OF_FILE, ViewPolicy
from synthgen.views.options import parse_mixture, policy_from_options
from synthgen.views.samples import SampleOptions

# The parameter that is a policy's strength, and values that span its useful range at 32 px.
STRENGTHS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "gaussian": ("std", (0.1, 0.2, 0.3, 0.5, 1.0)),
    "ball": ("radius", (0.1, 0.2, 0.3, 0.5, 1.0)),
    "angular": ("degrees", (10.0, 20.0, 40.0, 60.0, 90.0)),
    "steer": ("strength", (0.5, 1.0, 1.5)),
    "directions": ("std", (0.5, 1.0, 2.0)),
}


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
    path = check_sheet_path(out)
    strengths = {"std": std, "radius": radius, "degrees": degrees, "strength": strength}
    files = {"edits": edits, "walks": walks, "directions": directions}
    columns = list(choose_columns(policy, strengths, files, generator))
    options = SampleOptions(
        samples=samples,
        classes=classes,
        generator=generator,
        weights=weights,
        truncation=truncation,
        seed=seed,
        device=device,
    )
    shown = options.draw(*(vectors for _, _, made in columns for vectors in made.vectors))
    latents = [shown.anchors]
    for _, _, made in columns:
        drawn = made.latents(shown.anchors, seed=seed, view=0, first=0, truncation=truncation)
        latents.append(drawn[0])
    pixels = [to_pixels(shown.images(z)) for z in latents]
    rows = [
        SheetRow(name=name, detail=f"group {sample}", images=[column[sample].numpy() for column in pixels])
        for sample, name in enumerate(shown.names)
    ]
    firsts = tuple(1 + number for number, (head, _, _) in enumerate(columns) if head)
    sheet = draw_rows(
        title=f"Views of {shown.generator.name}",
        facts=[f"truncation {truncation:g}", f"seed {seed}"],
        heads=[("anchor", ""), *((head, detail) for head, detail, _ in columns)],
        rows=rows,
        wide_before=firsts,
        fewer="--samples",
    )
    return write_sheet(path, sheet)


def choose_columns(
    policy: str | Sequence[str],
    strengths: Mapping[str, str | float | Sequence[float] | None],
    files: Mapping[str, Any],
    generator_name: str,
) -> Iterator[tuple[str, str, ViewPolicy]]:
    """(head, detail, policy) of every column beside the anchor; the head is empty from a policy's second column on.

    Raises:
        ValueError: no such policy, strengths of none of them, or strengths that cannot be read.
    """
    if isinstance(policy, str):  # a mixture may hold commas of its own
        names = [policy] if policy.startswith("mixture:") else [name.strip() for name in policy.split(",")]
    else:
        names = list(policy)
    parameters = {STRENGTHS[name][0] for name in names if name in STRENGTHS}
    for option, value in strengths.items():
        if value is not None and option not in parameters:
            raise ValueError(f"none of the policies has {option}: omit --{option}")
    owners = {**POLICY_OF_FILE, "edits": "steer"}
    used = {name: _policies_in(name) for name in names}
    for option, owner in owners.items():
        if files.get(option) is not None and not any(owner in policies for policies in used.values()):
            raise ValueError(f"none of the policies has {option}: omit --{option}")
    for name in names:
        own = {option: value for option, value in files.items() if owners[option] in used[name]}
        if name not in STRENGTHS:
            yield name.partition(":")[0], "", policy_from_options(name, generator=generator_name, **own)
            continue
        option, defaults = STRENGTHS[name]
        given = strengths.get(option)
        for number, value in enumerate(defaults if given is None else parse_strengths(option, given)):
            made = policy_from_options(name, generator=generator_name, **(own | {option: value}))
            yield ("" if number else name), f"{option} {value:g}", made


def _policies_in(name: str) -> set[str]:
    if not name.startswith("mixture:"):
        return {name}
    return {policy for policy, _, _ in parse_mixture(name)}


def parse_strengths(option: str, values: str | float | Sequence[float]) -> list[float]:
    """Numbers from 0.1,0.2, from one number, or from a list of them.

    Raises:
        ValueError: something that is no number, or none at all.
    """
    parts: Sequence[Any] = (
        values.split(",") if isinstance(values, str) else ([values] if isinstance(values, int | float) else values)
    )
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        raise ValueError(f"{option} {values}: give numbers such as 0.1,0.2,0.5") from None
    if not numbers:
        raise ValueError(f"{option}: give numbers such as 0.1,0.2,0.5")
    return numbers
