"""Counts, bytes and seconds as people write and read them.

parse_count("1.3M")                 # 1300000
format_bytes(1.2e9)                 # "1.2 GB"
"""

from __future__ import annotations

import re
from decimal import Decimal, localcontext

_COUNT_PATTERN = re.compile(r"(\d[\d_]*(?:\.\d+)?)(?:e(\d{1,2}))?([kKmMgG]?)", re.ASCII)
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_LARGEST_COUNT = 10**15


def parse_count(text: str) -> int:
    """The count that people write as 1300000, 1_300_000, 1.3M, 4k or 2e4.

    Raises:
        ValueError: not such a number, not a whole one, below 1, or above 10^15.
    """
    match = _COUNT_PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a count: write a whole number above 0, such as 1300000, 1.3M or 4k")
    digits, exponent, unit = match.groups()
    with localcontext(prec=40):  # whatever the process computes with elsewhere
        value = Decimal(digits.replace("_", "")) * 10 ** int(exponent or 0) * _COUNT_UNITS[unit.lower()]
    if value != value.to_integral_value():
        raise ValueError(f"'{text}' is not a whole number: write one such as 1300000, 1.3M or 4k")
    if not 1 <= value <= _LARGEST_COUNT:
        raise ValueError(f"'{text}' is out of range: write a whole number from 1 to {_LARGEST_COUNT:.0e}")
    return int(value)


def format_count(count: int) -> str:
    """The shortest exact writing with at most two decimals: 1300000 as 1.3M, 4000 as 4k, 4321 as 4321."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(count) >= size and count % (size // 100) == 0:
            return f"{Decimal(count) / size:f}{unit}"
    return str(count)


def format_things(count: int, noun: str) -> str:
    """A count and what it counts, shortest as in format_count: 1 shard, 4k shards."""
    return f"{format_count(count)} {noun}" if count == 1 else f"{format_count(count)} {noun}s"


def format_bytes(count_bytes: float) -> str:
    """Decimal units, two significant digits or more: 1.2 GB, 34 MB, 512 B."""
    size = float(count_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 9.95 else f"{size:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """Two units at most: 1 h 02 min, 3 min 20 s, 12 s, 0.4 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
