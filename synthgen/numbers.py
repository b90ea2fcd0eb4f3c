"""Numbers that people give, checked one way, with one wording."""

from __future__ import annotations

import math

LARGEST_STEP = 100
"""Of a view, in units of the latents' own spread: far beyond where any generator still draws something."""


def check_whole(name: str, value: object, lowest: int, highest: float = math.inf) -> None:
    """Raises ValueError unless the value is a whole number from lowest to highest; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(f"{name.replace('_', '-')} {value}: give a whole number {_span(lowest, highest)}")


def check_number(name: str, value: object, lowest: float, highest: float = math.inf, *, such_as: str) -> float:
    """The value as a float.

    Raises:
        ValueError: it is no number from lowest to highest, or not finite.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (lowest <= value <= highest and math.isfinite(value))
    ):
        raise ValueError(f"{name} {value}: give a number {_span(lowest, highest)}, such as {such_as}")
    return float(value)


def _span(lowest: float, highest: float) -> str:
    return f"from {lowest} on" if highest == math.inf else f"from {lowest} to {highest}"
