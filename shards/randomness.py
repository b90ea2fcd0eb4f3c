"""Random words and permutations keyed by a name, the same on every machine and under every version of numpy.

    random_permutation("order/0/3", 10_000)                    # of the groups in epoch 3 under seed 0

Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by the name's sha256.
Whoever draws puts everything that the draw depends on into the name.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy import ndarray


def random_words(name: str, count: int) -> ndarray:
    """Random 64-bit words, uint64 [count]; fewer of them are a prefix."""
    key = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8")
    return np.random.Philox(key=key).random_raw(count)


def random_permutation(name: str, count: int) -> ndarray:
    """A permutation of 0 … count - 1, int64 [count]."""
    return np.argsort(random_words(name, count), kind="stable")
