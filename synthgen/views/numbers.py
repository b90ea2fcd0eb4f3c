"""Parameters of view policies, checked one way."""

from __future__ import annotations

import math


def check_number(name: str, value: object, lowest: float, highest: float, *, such_as: str) -> float:
    """The value as a float.

    Raises:
        ValueError: it is no number from lowest to highest, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        span = f"from {lowest:g} on" if highest == math.inf else f"from {lowest:g} to {highest:g}"
        raise ValueError(f"{name} {value}: give a number {span}, such as {such_as}")
    if not math.isfinite(value):
        raise ValueError(f"{name} {value}: give a number from {lowest:g} on, such as {such_as}")
    return float(value)
