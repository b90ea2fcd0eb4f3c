"""One source of labelled images as a test of encoders: what is scored on it, and what is noted.

test = load_test("cifar10", record, data_train=None, data_root=None, num_train=10_000, ks=None, names=("knn",))
score = test.score(train_features, test_features, ("knn",), device=torch.device("cpu"))
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from contrast.evaluation.fewshot import DEFAULT_SHOTS, check_shots, few_shot_accuracies
from contrast.evaluation.geometry import rankme
from contrast.evaluation.holdout import hold_out_tenth
from contrast.evaluation.knn import DEFAULT_KS, NUM_NEIGHBOURS, check_neighbours, knn_accuracies
from contrast.evaluation.linear import linear_probe
from contrast.evaluation.logistic import logistic_regression
from contrast.evaluation.results import FewShotScore, Score, TestScores
from contrast.evaluation.sources import load_pair, name_source
from contrast.images import LabelledImages, align_classes
from contrast.run_folder import RunRecord
from shards.quantities import format_count


@dataclass(frozen=True, kw_only=True)
class LabelledTest:
    """One source of labelled images, loaded."""

    source: str
    train: LabelledImages
    test: LabelledImages
    ks: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def k(self) -> int:
        """Neighbours of the one kNN score that a table has room for."""
        return NUM_NEIGHBOURS if NUM_NEIGHBOURS in self.ks else self.ks[0]

    def check(self, names: tuple[str, ...]) -> None:
        """Raises ValueError when a score needs more training labels than there are: before the work, not after it."""
        if "knn" in names:
            check_neighbours(self.ks, num_train=len(self.train))
        if "linear" in names or "logistic" in names:
            hold_out_tenth(self.train.labels)
        if "fewshot" in names:
            check_shots(self.train.labels)

    def record(self, scores: dict[str, Score], *, notes: Sequence[str]) -> TestScores:
        """What RUN/evaluate.json says of it."""
        kind = "real" if self.test.is_real else "generated"
        return TestScores(
            data=self.source,
            evaluated_on=f"{self.test.name}, {format_count(len(self.test))} {kind} images",
            trained_with=f"{self.train.name}, {format_count(len(self.train))} labels",
            content_sha256=_hash_content(self.train, self.test),
            is_real=self.test.is_real,
            num_train=len(self.train),
            num_test=len(self.test),
            num_classes=len(self.test.class_names),
            k=self.k,
            notes=(*self.notes, *notes),
            scores=scores,
        )

    def score(
        self, train_features: ndarray, test_features: ndarray, names: tuple[str, ...], *, device: torch.device
    ) -> Score:
        """The scores of these names, of features of its labelled and of its test images."""
        given = (train_features, self.train.labels, test_features, self.test.labels)
        found: dict[str, object] = {}
        if "knn" in names:
            accuracies = knn_accuracies(*given, ks=self.ks, device=device)
            found["knn"] = _percent(accuracies[self.k])
            found["knn_by_k"] = {str(k): _percent(accuracy) for k, accuracy in accuracies.items()}
        if "linear" in names:
            probe = linear_probe(*given, device=device)
            found["linear"], found["linear_learning_rate"] = _percent(probe.accuracy), probe.learning_rate
        if "logistic" in names:
            regression = logistic_regression(*given)
            found["logistic"], found["logistic_penalty"] = _percent(regression.accuracy), regression.penalty
            found["logistic_converged"] = regression.converged
        if "fewshot" in names:
            found["fewshot"] = {
                str(shots): FewShotScore(mean=_percent(score.mean), interval=_percent(score.interval))
                for shots, score in few_shot_accuracies(*given, device=device).items()
            }
        if "rankme" in names:
            found["rankme"] = round(rankme(train_features), 2)
        return Score(**found)  # type: ignore[arg-type]


def load_test(
    source: str,
    record: RunRecord,
    *,
    data_train: str | None,
    data_root: str | Path | None,
    num_train: int | None,
    ks: tuple[int, ...] | None,
    names: tuple[str, ...],
) -> LabelledTest:
    """The images of a source, their classes matched, with the notes that a reader of scores on them needs.

    Args:
        ks: neighbours of kNN; when None those of DEFAULT_KS that the training labels are enough for.
        names: the scores that will be taken.

    Raises:
        ValueError: there is no such source, or too few labels.
        DamageError: an image does not decode.
    """
    train, test = load_pair(
        source,
        image_size=record.trained_on.image_size,
        data_train=data_train,
        data_root=None if data_root is None else Path(data_root),
        trained_on=record.trained_on,
    )
    train, test, left_out = align_classes(train, test)
    notes = [*test.notes, *left_out]
    if not test.is_real:
        notes.append("the test images came out of a generator: this is no score on photographs")
    if num_train is not None:
        if num_train < len(train.class_names):
            raise ValueError(
                f"--num-train {num_train}: {len(train.class_names)} classes need a label each; ask for more"
            )
        train = train.first_of_each_class(num_train)
    fewest = int(np.bincount(train.labels).min())
    if "fewshot" in names and fewest < 2 * max(DEFAULT_SHOTS):
        notes.append(
            f"few-shot draws of {max(DEFAULT_SHOTS)} from {fewest} images of a class are much alike: their "
            "intervals are too narrow"
        )
    if ks is None:
        ks = tuple(k for k in DEFAULT_KS if k <= len(train))
        if ks != DEFAULT_KS:
            notes.append(f"no kNN of more than {ks[-1]} neighbours: there are {len(train)} training labels")
    return LabelledTest(source=name_source(source), train=train, test=test, ks=ks, notes=tuple(notes))


def _hash_content(*parts: LabelledImages) -> str:
    digest = hashlib.sha256()
    for images in parts:
        digest.update(f"{images.sha256} {images.class_names} {images.labels.dtype}".encode())
        digest.update(np.ascontiguousarray(images.labels).data)
    return digest.hexdigest()


def _percent(share: float) -> float:
    return round(100 * share, 2)
