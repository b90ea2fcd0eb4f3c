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
    """bool [N]: every tenth image of a class; where no class has ten, the last image of every class.

    Raises:
        ValueError: a class would have no image left to fit on.
    """
    held_out = rank_within_class(labels) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    if not held_out.any():
        held_out = rank_within_class(labels) == np.bincount(labels)[labels] - 1
    if len(np.unique(labels[~held_out])) < len(np.unique(labels)):
        raise ValueError("a linear probe needs two training images of every class or more: raise --num-train")
    return held_out
