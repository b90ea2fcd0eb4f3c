"""A sheet that helps to choose views: the same anchors, and their views at several strengths of several policies.

The noise of a view does not depend on the strength, so along a row the same step becomes longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.sheet import SheetRow, check_sheet_path, draw_rows, write_sheet
from synthgen.adapters import load_generator
from synthgen.adapters.protocol import Generator
from synthgen.classes import parse_classes
from synthgen.devices import choose_device
from synthgen.draws import draw_labels, draw_truncated_normal
from synthgen.plan import ANCHOR_BOUND
from synthgen.views import ViewPolicy, policy_from_options

# The parameter that is a policy's strength, and values that span its useful range at 32 px.
STRENGTHS: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "gaussian": ("std", (0.1, 0.2, 0.3, 0.5, 1.0)),
    "ball": ("radius", (0.1, 0.2, 0.3, 0.5, 1.0)),
    "angular": ("degrees", (10.0, 20.0, 40.0, 60.0, 90.0)),
    "steer": ("strength", (0.5, 1.0, 1.5)),
    "directions": ("std", (0.5, 1.0, 2.0)),
}


def draw_contact_sheet(
    *,
    out: str | Path,
    policy: str | Sequence[str],
    strengths: Mapping[str, str | float | Sequence[float] | None],
    edits: str | Sequence[str] | None,
    walks: str | Path | None,
    directions: str | Path | None,
    samples: int,
    classes: str | Sequence[int],
    generator_name: str,
    weights: str | Path | None,
    truncation: float,
    seed: int,
    device: str,
) -> Path:
    """Draws the sheet and writes it as PNG; see `synthgen.views.show`."""
    path = check_sheet_path(out)
    check_samples(samples)
    files = {"edits": edits, "walks": walks, "directions": directions}
    columns = list(choose_columns(policy, strengths, files, generator_name))
    place = choose_device(device)
    generator = load_generator(generator_name, weights=weights, truncation=truncation, device=place)
    for _, _, made in columns:
        for found in made.vectors:
            found.check_generator(generator)
    anchors, labels = draw_anchors(generator, classes=classes, truncation=truncation, seed=seed, count=samples)
    latents = [anchors]
    for _, _, made in columns:
        latents.append(made.latents(anchors, seed=seed, view=0, first=0, truncation=truncation)[0])
    on_device = labels.clamp(min=0).to(place)
    pixels = [generator.render(torch.from_numpy(z.astype(np.float32)).to(place), on_device).cpu() for z in latents]
    rows = [
        SheetRow(
            name=generator.class_names[int(labels[sample])] if generator.num_classes else f"sample {sample}",
            detail=f"group {sample}",
            images=[column[sample].numpy() for column in pixels],
        )
        for sample in range(samples)
    ]
    firsts = tuple(1 + number for number, (head, _, _) in enumerate(columns) if head)
    sheet = draw_rows(
        title=f"Views of {generator.name}",
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
            raise ValueError(f"none of the policies has {option}: leave --{option} away")
    kinds = {"walks": "steer", "edits": "steer", "directions": "directions"}
    for option, owner in kinds.items():
        if files.get(option) is not None and not any(owner in name for name in names):
            raise ValueError(f"none of the policies has {option}: leave --{option} away")
    for name in names:
        own = {key: value for key, value in files.items() if kinds[key] in name}
        if name not in STRENGTHS:
            yield name.partition(":")[0], "", policy_from_options(name, generator=generator_name, **own)
            continue
        option, defaults = STRENGTHS[name]
        given = strengths.get(option)
        for number, value in enumerate(defaults if given is None else parse_strengths(option, given)):
            made = policy_from_options(name, generator=generator_name, **(own | {option: value}))
            yield ("" if number else name), f"{option} {value:g}", made


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


def check_samples(samples: int) -> None:
    """Raises ValueError unless this many rows can be asked for."""
    if isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples <= 100:
        raise ValueError(f"samples {samples}: give a whole number from 1 to 100")


def draw_anchors(
    generator: Generator, *, classes: str | Sequence[int], truncation: float, seed: int, count: int
) -> tuple[NDArray[np.float64], torch.Tensor]:
    """Latents [count, latent_dim] and labels [count] of the first anchors of a dataset with these options."""
    latents = draw_truncated_normal(
        seed=seed, stream="anchor", first=0, count=count, dim=generator.latent_dim, bound=ANCHOR_BOUND
    )
    chosen = parse_classes(classes, num_classes=generator.num_classes, class_names=generator.class_names)
    return truncation * latents, torch.from_numpy(draw_labels(seed=seed, first=0, count=count, classes=chosen))
