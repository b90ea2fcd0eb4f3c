"""Options that every command about one generator has, written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def model_options(command: Callable[..., Any], *, draws: str = "") -> Callable[..., Any]:
    """Adds --generator, --weights, --truncation, --seed and --device; `draws` begins the help of what draws ask for."""
    options = [
        click.option(
            "--generator",
            help="One of `synthgen generators`, module:function, or FILE.pt2.  [default: biggan-deep-32]",
        ),
        click.option(
            "--weights", type=click.Path(path_type=Path), help="Folder or file of weights, in place of the usual ones."
        ),
        click.option("--truncation", type=float, help=f"{draws}In (0, 1].  [default: 1]"),
        click.option("--seed", type=int, help=f"{draws}Seed of every random draw.  [default: 0]"),
        click.option("--device", help="auto, cpu, cuda, cuda:1.  [default: auto]"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; a function's own defaults stand for the others."""
    return {name: value for name, value in options.items() if value is not None}
