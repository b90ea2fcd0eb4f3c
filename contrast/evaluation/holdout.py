"""Which training images pick a classifier's hyper-parameter, so that the test images need not.

held_out = hold_out_tenth(train_labels)
fit(features[~held_out], labels[~held_out])
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from shards.pictures import rank_within_class

HOLD_OUT_EVERY = 10


def hold_out_tenth(labels: ndarray) -> ndarray:
    """bool [N]: of a class with ten images or more every tenth, of a smaller one the last; a lone image is fitted on.

    Raises:
        ValueError: no class has ten images, and one has a single image.
    """
    ranks, sizes = rank_within_class(labels), np.bincount(labels)[labels]
    # Class by class: with one class of ten and many of nine, a single image would else choose for all of them.
    is_tenth = ranks % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    held_out = np.where(sizes >= HOLD_OUT_EVERY, is_tenth, (ranks == sizes - 1) & (sizes > 1))
    if sizes.max() < HOLD_OUT_EVERY and sizes.min() == 1:
        raise ValueError("a linear probe needs two training images of every class or more: raise --num-train")
    return held_out
