"""Randomness from a group's index alone, so that any worker draws any group and all agree bit for bit.

A counter, not a stream of numbers: Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
keyed by (seed, name of the stream). Row i owns the counters from i * k on, k = ceil(words per row / 4), so a block of
rows is one call, and a row of it never depends on where the block began.

    draw_truncated_normal(seed=0, stream="anchor", first=1000, count=50, dim=128)  # [50, 128]
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

WORDS_PER_COUNTER = 4
LATENT_BOUND = 2.0
"""Latents and their steps are cut here, as BigGAN's are (Brock et al. 2019); truncation then scales them."""
LARGEST_STEP = 100
"""Of a view, in units of the latents' own spread: far beyond where any generator still draws something."""


def draw_words(*, seed: int, stream: str, first: int, count: int, dim: int) -> NDArray[np.uint64]:
    """Random 64-bit words [count, dim], one row per index first … first + count - 1.

    Streams of different names, and of different seeds, have different keys; rows of one stream never share a counter.
    """
    assert first >= 0 and count >= 0 and dim > 0, (first, count, dim)
    key = hashlib.sha256(json.dumps([seed, stream]).encode()).digest()[:16]
    counters = -(-dim // WORDS_PER_COUNTER)
    generator = np.random.Philox(key=int.from_bytes(key, "little"), counter=first * counters)
    words = generator.random_raw(count * counters * WORDS_PER_COUNTER)
    return words.reshape(count, counters * WORDS_PER_COUNTER)[:, :dim]


def draw_uniform(*, seed: int, stream: str, first: int, count: int, dim: int) -> NDArray[np.float64]:
    """Uniform draws [count, dim], strictly between 0 and 1: the middles of 2^52 equal cells, each exact in a double."""
    words = draw_words(seed=seed, stream=stream, first=first, count=count, dim=dim)
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def draw_truncated_normal(
    *, seed: int, stream: str, first: int, count: int, dim: int, bound: float = LATENT_BOUND
) -> NDArray[np.float64]:
    """Standard normal draws cut at ±bound, [count, dim], one row per index first … first + count - 1.

    Inverse-CDF method; the standard deviation is below one after cutting (0.88 at bound 2).

    Raises:
        ValueError: bound is not positive.
    """
    from scipy.special import ndtr, ndtri  # a fifth of a second that `--help` need not pay

    if not bound > 0:
        raise ValueError(f"bound {bound}: give a number above 0")
    uniform = draw_uniform(seed=seed, stream=stream, first=first, count=count, dim=dim)
    lowest = ndtr(-bound)
    draws = ndtri(lowest + uniform * (1.0 - 2.0 * lowest))
    return np.clip(draws, -bound, bound)


def draw_normal(*, seed: int, stream: str, first: int, count: int, dim: int) -> NDArray[np.float64]:
    """Standard normal draws [count, dim], uncut, one row per index; for directions that prefer no axis. Inverse CDF."""
    from scipy.special import ndtri

    return ndtri(draw_uniform(seed=seed, stream=stream, first=first, count=count, dim=dim))


def truncated_normal_std(bound: float = LATENT_BOUND) -> float:
    """Standard deviation of a standard normal cut at ±bound: 0.8796 at 2."""
    from scipy.stats import truncnorm

    return float(truncnorm.std(-bound, bound))


def draw_labels(*, seed: int, first: int, count: int, classes: tuple[int, ...]) -> NDArray[np.int64]:
    """Class ids [count] of the groups first … first + count - 1; -1 for all of them where there are no classes.

    Each run of C = len(classes) consecutive indices is a permutation of the classes, keyed by the run's number, so that
    every prefix of a dataset is balanced to within one group per class.
    """
    if not classes or count == 0:
        return np.full(count, -1, dtype=np.int64)
    num_classes = len(classes)
    first_run, last_run = first // num_classes, (first + count - 1) // num_classes
    words = draw_words(seed=seed, stream="class", first=first_run, count=last_run - first_run + 1, dim=num_classes)
    order = np.argsort(words, axis=1, kind="stable").reshape(-1)
    start = first - first_run * num_classes
    return np.asarray(classes, dtype=np.int64)[order[start : start + count]]
