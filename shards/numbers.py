"""Numbers that people give, checked one way, with one wording: whole ones, others, and counts such as 1.3M.

numpy's numbers are numbers; True and False are none.

    check_whole("batch_size", np.int64(128), 1)         # 128
    check_whole("n", "4k", 1)                           # 4000: text is a count, where there has to be one
    check_number("std", 0.3, 0, 100, such_as="0.3")     # 0.3
"""

from __future__ import annotations

import math
from numbers import Integral, Rational, Real

from shards.quantities import parse_count


def check_whole(name: str, value: object, lowest: int, highest: float = math.inf) -> int:
    """The value as an int.

    Raises:
        ValueError: it is no whole number from lowest to highest.
    """
    if isinstance(value, str) and lowest > 0:
        try:
            value = parse_count(value)
        except ValueError as error:
            raise ValueError(f"{name.replace('_', '-')}: {error}") from None
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or not lowest <= number <= highest:
        raise ValueError(f"{name.replace('_', '-')} {value}: give a whole number {_span(lowest, highest)}")
    return number


def check_number(
    name: str, value: object, lowest: float, highest: float = math.inf, *, such_as: str, above: bool = False
) -> float:
    """The value as a float.

    Args:
        above: whether `lowest` itself is too low.

    Raises:
        ValueError: it is no number from lowest to highest, or not finite.
    """
    number = _as_float(value)
    if not (lowest <= number <= highest and math.isfinite(number)) or (above and number == lowest):
        most = "" if highest == math.inf else f" and at most {highest:g}"
        span = f"above {lowest:g}{most}" if above else _span(lowest, highest)
        raise ValueError(f"{name.replace('_', '-')} {value}: give a number {span}, such as {such_as}")
    return number


def _as_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    # What float32 calls 0.3 is 0.3 to whoever wrote it, and not 0.30000001192092896, another recipe.
    is_narrow = not isinstance(value, float | Rational)
    try:
        return float(str(value)) if is_narrow else float(value)
    except (OverflowError, ValueError):
        return math.nan


def check_flag(name: str, value: object) -> bool:
    """The value, where it is True or False.

    Raises:
        ValueError: it is something else, such as the text "no", which Python takes for true.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name.replace('_', '-')} {value!r}: give True or False")
    return value


def _span(lowest: float, highest: float) -> str:
    if highest == math.inf:
        return f"from {lowest} on"
    if highest == 2**63 - 1:
        return f"from {lowest} on, below 2^63"
    return f"from {lowest} to {highest}" if isinstance(highest, int) else f"from {lowest} to {highest:g}"
