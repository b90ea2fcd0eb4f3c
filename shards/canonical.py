"""JSON whose writing says what it means: one text per value, copies that nobody shares, and the first difference.

canonical_json({"b": 1, "a": 2})                              # {"a":2,"b":1}
first_difference({"std": 0.3}, {"std": 0.5})                  # std: 0.3 in the folder, 0.5 asked for
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from shards.errors import DamageError

JSON: TypeAlias = Any  # what json.loads gives


def canonical_json(data: JSON) -> str:
    """One writing per value: sorted keys, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def parse_json(text: bytes) -> JSON:
    """The value that a JSON file holds.

    Raises:
        DamageError: it is no JSON, or more than a file of ours can hold.
    """
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamageError(f"it is not JSON ({error})") from error
    except RecursionError as error:
        raise DamageError("it is not JSON of ours (nested too deeply)") from error
    except ValueError as error:  # Python's limit for the digits of a whole number
        raise DamageError("it is not JSON of ours (a number of thousands of digits)") from error


def plain_copy(data: JSON, path: str) -> JSON:
    """A copy made of dicts, lists and scalars only, so that no caller can change it from outside.

    Raises:
        ValueError: something cannot be written as JSON; the message begins with its path.
    """
    if isinstance(data, Mapping):
        if any(not isinstance(key, str) for key in data):
            raise ValueError(f"{path}: keys must be text")
        return {key: plain_copy(value, f"{path}.{key}") for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain_copy(value, f"{path}.{i}") for i, value in enumerate(data)]
    if hasattr(data, "item") and getattr(data, "ndim", None) == 0:  # a numpy scalar
        data = data.item()
    if isinstance(data, float) and not float("-inf") < data < float("inf"):
        raise ValueError(f"{path}: {data} is not a finite number")
    if data is not None and not isinstance(data, bool | int | float | str):
        raise ValueError(f"{path}: {type(data).__name__} cannot be written as JSON")
    return data


def normalised_numbers(data: JSON) -> JSON:
    """The same value with every whole float as an int, so that 1.0 and 1 are written alike."""
    if isinstance(data, dict):
        return {key: normalised_numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [normalised_numbers(value) for value in data]
    return int(data) if isinstance(data, float) and data.is_integer() else data


def first_difference(
    one: Mapping[str, JSON],
    other: Mapping[str, JSON],
    prefix: str = "",
    *,
    one_is: str = "in the folder",
    other_is: str = "asked for",
) -> str | None:
    """The first field in which two mappings differ, and what each has there; None where they agree."""
    for path, a, b in _differences(one, other, prefix):
        return f"{path}: {shorten(a)} {one_is}, {shorten(b)} {other_is}"
    return None


def _differences(one: JSON, other: JSON, prefix: str) -> Iterator[tuple[str, JSON, JSON]]:
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key, _ABSENT), other.get(key, _ABSENT)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif _all_mappings(a) and _all_mappings(b) and len(a) == len(b):
            yield from _differences(dict(enumerate(a)), dict(enumerate(b)), f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _all_mappings(data: JSON) -> bool:
    return isinstance(data, list) and all(isinstance(value, dict) for value in data)


def shorten(data: JSON) -> str:
    """The value as a message shows it: long text, lists and mappings are cut."""
    if isinstance(data, str) and len(data) > 24:
        return f"{data[:12]}…"
    text = data if isinstance(data, str) else repr(data)
    if len(text) > 40 and isinstance(data, list | dict):
        return f"{len(data)} of them ({text[1:20]}…)"
    return text
