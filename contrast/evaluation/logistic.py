"""Logistic regression on frozen features, fitted to the end, its penalty picked on training labels alone.

    probe = logistic_regression(train_features, train_labels, test_features, test_labels)
    probe.accuracy, probe.penalty

Training images vote twice: nine tenths fit, one tenth picks the penalty, then all of them fit the classifier whose
score on the test images is reported. The test images are touched once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from numpy import ndarray

from contrast.evaluation.holdout import hold_out_tenth

PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
"""L2 penalties on the weights, per training image; the loss is a mean over the images."""
CLEARLY_WORSE = 0.005
"""Weaker penalties cost the most time; none is tried once the accuracy has fallen this far below the best."""
MAX_ITERATIONS = 200


@dataclass(frozen=True, kw_only=True)
class LogisticRegressionScore:
    """A classifier's score and how it was come by."""

    accuracy: float
    """Share in [0, 1] of the test images."""
    penalty: float
    picked_accuracy: float
    """Of the picked penalty, on the held-out tenth of the training images."""
    converged: bool
    """Whether the last fit met its tolerance within the iterations."""


def logistic_regression(
    train_features: ndarray,
    train_labels: ndarray,
    test_features: ndarray,
    test_labels: ndarray,
    *,
    penalties: tuple[float, ...] = PENALTIES,
) -> LogisticRegressionScore:
    """Fits multinomial logistic regression with L-BFGS on standardised features.

    Raises:
        ValueError: there are too few training images to hold some out; see `hold_out_tenth`.
    """
    held_out = hold_out_tenth(train_labels)
    scored: dict[float, float] = {}
    fitted: dict[float, _Classifier] = {}
    stronger: _Classifier | None = None
    for penalty in sorted(penalties, reverse=True):  # each fit starts where the stronger penalty's ended
        stronger = _fit(train_features[~held_out], train_labels[~held_out], penalty, start=stronger)
        fitted[penalty] = stronger
        scored[penalty] = stronger.accuracy(train_features[held_out], train_labels[held_out])
        if scored[penalty] < max(scored.values()) - CLEARLY_WORSE:
            break
    best = max(scored, key=lambda penalty: (scored[penalty], penalty))
    final = _fit(train_features, train_labels, best, start=fitted[best])
    return LogisticRegressionScore(
        accuracy=final.accuracy(test_features, test_labels),
        penalty=best,
        picked_accuracy=scored[best],
        converged=final.converged,
    )


class _Classifier:
    """Standardisation and weights of one fit."""

    def __init__(self, mean: ndarray, scale: ndarray, regression: object, converged: bool) -> None:
        self.mean, self.scale, self.regression, self.converged = mean, scale, regression, converged

    def accuracy(self, features: ndarray, labels: ndarray) -> float:
        return float(self.regression.score((features - self.mean) / self.scale, labels))  # type: ignore[attr-defined]


def _fit(features: ndarray, labels: ndarray, penalty: float, *, start: _Classifier | None) -> _Classifier:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean = features.mean(axis=0)
    scale = features.std(axis=0)
    scale[scale < 1e-6] = 1  # a feature that never changes says nothing
    # scikit-learn minimises sum(loss) + |w|^2 / (2 C): C = 1 / (n * penalty) makes it mean(loss) + penalty |w|^2 / 2.
    # The tolerance is of the gradient, to which a weak penalty adds little: one above it would end such a fit at once.
    regression = LogisticRegression(
        C=1 / (len(features) * penalty),
        max_iter=MAX_ITERATIONS,
        tol=min(1e-3, penalty),
        warm_start=start is not None,
    )
    if start is not None:
        regression.coef_ = start.regression.coef_.copy()  # type: ignore[attr-defined]
        regression.intercept_ = start.regression.intercept_.copy()  # type: ignore[attr-defined]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        regression.fit((features - mean) / scale, labels)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return _Classifier(mean, scale, regression, converged)
