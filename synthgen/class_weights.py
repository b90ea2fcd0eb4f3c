"""Deliberate imbalance: some classes more often than others, and every prefix as close to that as whole groups can be.

Weights are whole numbers; a class of weight 3 comes three times as often as one of weight 1. The indices are cut into
runs of L = sum of the weights, each of which holds every class exactly as often as its weight says. Within a run, they
are spread so that after any number n of groups a class of weight w has come n * w / L times, to within less than one.

    weights = parse_class_weights("0:3,cat:2", classes=(0, 3, 5), num_classes=10, class_names=names)   # {0: 3, 3: 2}
    draw_weighted_labels(seed=0, first=0, count=6, classes=(0, 3, 5), weights=(3, 2, 1))
"""

from __future__ import annotations

import heapq
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from synthgen.classes import find_class, read_lines
from synthgen.draws import draw_words

LARGEST_RUN = 1_000_000
"""Sum of the weights: a run is laid out in memory, in a few seconds at this length."""


def parse_class_weights(
    selection: str | Mapping[int | str, int],
    *,
    classes: tuple[int, ...],
    num_classes: int,
    class_names: Sequence[str] = (),
) -> dict[int, int]:
    """Weights other than 1, by class id, of text such as 0:3,cat:2, of a file with one of these a line, or a mapping.

    Selected classes that are not named have weight 1. Common factors are divided out and weights of 1 left away, so
    that equal proportions give equal recipes; all weights alike give an empty mapping.

    Raises:
        ValueError: unreadable, a class twice or not selected, or weights that are not whole numbers above 0.
    """
    if not classes:
        raise ValueError("this generator has no classes: omit --class-weights")
    source, pairs = _split_pairs(selection)
    weights = dict.fromkeys(classes, 1)
    named = set()
    for word, text in pairs:
        label = find_class(word, source=source, num_classes=num_classes, class_names=class_names)
        if label in named:
            raise ValueError(f"{source}: class {label} is given twice; give every class once")
        if label not in weights:
            raise ValueError(f"{source}: class {label} is not among --classes; omit it there, or add it here")
        if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) == 0:
            raise ValueError(
                f"{source}: weight '{text}' of class {label}: give a whole number above 0; to leave a class out, use "
                "--classes"
            )
        named.add(label)
        weights[label] = int(text)
    divisor = math.gcd(*weights.values())
    length = sum(weights.values()) // divisor
    if length > LARGEST_RUN:
        raise ValueError(f"{source}: the weights add up to {length}; round them until they add up to {LARGEST_RUN}")
    return {label: weight // divisor for label, weight in weights.items() if weight != divisor}


def draw_weighted_labels(
    *, seed: int, first: int, count: int, classes: tuple[int, ...], weights: tuple[int, ...]
) -> NDArray[np.int64]:
    """Class ids [count] of the groups first … first + count - 1; as often as their weights say.

    A run is the spread of its weights, in which classes of equal weight change places by a permutation keyed by the
    run's number, read forwards or backwards by one more bit: both keep every prefix as balanced as it was.
    """
    if count == 0:
        return np.empty(0, dtype=np.int64)
    spread, length = spread_classes(weights), sum(weights)
    first_run, last_run = first // length, (first + count - 1) // length
    num_runs = last_run - first_run + 1
    words = draw_words(seed=seed, stream="class/weighted", first=first_run, count=num_runs, dim=len(classes) + 1)
    places = np.empty((num_runs, len(classes)), dtype=np.int64)
    for weight in set(weights):
        alike = np.flatnonzero(np.asarray(weights) == weight)
        places[:, alike] = alike[np.argsort(words[:, alike], axis=1, kind="stable")]
    runs = places[:, spread]
    backwards = (words[:, -1] >> np.uint64(63)).astype(bool)
    runs[backwards] = runs[backwards, ::-1]
    start = first - first_run * length
    return np.asarray(classes, dtype=np.int64)[runs.reshape(-1)[start : start + count]]


@lru_cache(maxsize=8)
def spread_classes(weights: tuple[int, ...]) -> NDArray[np.int64]:
    """Positions of classes [sum of the weights], each as often as its weight, spread evenly.

    The j-th coming of a class of weight w falls into the places floor((j - 1) L / w) … ceil(j L / w) - 1, which keeps
    its count within one of its share after every place. Earliest deadline first finds such a spread, because there
    always is one (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", Algorithmica 1996).
    """
    length = sum(weights)
    waiting = [(0, position) for position in range(len(weights))]  # (first place allowed, class)
    ready: list[tuple[int, int]] = []  # (first place too late, class)
    comings = [0] * len(weights)
    spread = np.empty(length, dtype=np.int64)
    for place in range(length):
        while waiting and waiting[0][0] <= place:
            _, position = heapq.heappop(waiting)
            comings[position] += 1
            heapq.heappush(ready, (-(-comings[position] * length // weights[position]), position))
        deadline, position = heapq.heappop(ready)
        assert place < deadline, (weights, place)
        spread[place] = position
        if comings[position] < weights[position]:
            heapq.heappush(waiting, (comings[position] * length // weights[position], position))
    spread.flags.writeable = False
    return spread


def _split_pairs(selection: str | Mapping[int | str, int]) -> tuple[str, list[tuple[str, str]]]:
    """Where the weights come from, for the messages, and (class, weight) as they were written."""
    if not isinstance(selection, str):
        if not isinstance(selection, Mapping):
            raise ValueError(f"class_weights {selection!r}: give a mapping such as {{0: 3, 5: 1}}, or a file")
        return "class_weights", [(str(word), str(weight)) for word, weight in selection.items()]
    source, words = "--class-weights", selection.split(",")
    if os.path.isfile(selection):
        source, words = selection, read_lines(selection, option="--class-weights")
    elif ":" not in selection:
        raise ValueError(f"--class-weights {selection}: give 0:3,5:1, or an existing file with one class:weight a line")
    pairs = []
    for word in words:
        name, colon, weight = word.rpartition(":")
        if not colon:
            raise ValueError(f"{source}: '{word.strip()}' is no class:weight, such as 0:3")
        pairs.append((name.strip(), weight.strip()))
    if not pairs:
        raise ValueError(f"{source}: no class:weight in it; give at least one")
    return source, pairs
