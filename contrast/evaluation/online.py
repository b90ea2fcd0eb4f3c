"""kNN accuracy while a run trains: a small fixed subset of labelled images, every so many steps.

    online = OnlineKnn(every=500, data="cifar10", ...)
    online.score_at(step, encoder)        # {"knn": 41.2}, or {} at the steps between

It looks and does not touch: the encoder is in evaluation mode meanwhile, no statistic of it changes, and nothing is
drawn from a random generator, so the run ends with the weights that it would have had anyway.
"""

from __future__ import annotations

from pathlib import Path

import torch

from contrast.encoders import Encoder
from contrast.evaluation.features import extract_features
from contrast.evaluation.knn import NUM_NEIGHBOURS, knn_accuracies
from contrast.evaluation.sources import decode_pair, list_pair
from contrast.images import ListedImages, align_classes
from contrast.trained_on import TrainedOn

NUM_TRAIN, NUM_TEST = 4000, 1000
"""At most; the score's standard error is then about 1.5 points: it is for watching, contrast eval is for reporting."""


class OnlineKnn:
    """Scores an encoder with k = 10 on up to 4,000 training labels and 1,000 test images, classes balanced.

    Args:
        every: steps between two scores; the last step has one, too.
        data, data_root: as contrast eval takes them.
        trained_on: what the run learns from; of groups that it has seen, none is tested on.

    Raises:
        ValueError: there is no such source, or too few images.
        DamageError: an image does not decode.
    """

    def __init__(
        self,
        *,
        every: int,
        last_step: int,
        data: str,
        data_root: str | Path | None,
        trained_on: TrainedOn,
        device: torch.device,
        precision: str,
    ) -> None:
        train, test = list_pair(
            data,
            image_size=trained_on.image_size,
            data_root=None if data_root is None else Path(data_root),
            trained_on=trained_on,
        )
        train, test, _ = align_classes(train, test)
        # Chosen by label first: to decode all of ImageNet for 5,000 of it, the other ranks would wait past their limit.
        self._train, self._test = decode_pair(_subset(train, NUM_TRAIN), _subset(test, NUM_TEST))
        if len(self._train) < NUM_NEIGHBOURS:
            raise ValueError(
                f"--knn-data {data}: {len(self._train)} training images are fewer than the {NUM_NEIGHBOURS} neighbours"
            )
        self._every, self._last_step = every, last_step
        self._device, self._precision = device, precision

    def score_at(self, step: int, encoder: Encoder) -> dict[str, float]:
        """{"knn": percent} when a score is due after `step` steps, else nothing."""
        if step % self._every and step != self._last_step:
            return {}
        train, test = (
            extract_features(encoder, images.pixels, device=self._device, precision=self._precision)
            for images in (self._train, self._test)
        )
        ks = (NUM_NEIGHBOURS,)
        shares = knn_accuracies(train, self._train.labels, test, self._test.labels, ks=ks, device=self._device)
        return {"knn": round(100 * shares[NUM_NEIGHBOURS], 2)}


def _subset(images: ListedImages, count: int) -> ListedImages:
    return images.first_of_each_class(min(count, len(images)))
