"""kNN and the linear probe against scikit-learn, and what they may not look at."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from contrast.evaluation.knn import knn_accuracy, knn_predict
from contrast.evaluation.linear import PENALTIES, linear_probe


def clusters(num: int, *, seed: int, noise: float = 1.6, dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(5, dim))
    labels = np.arange(num) % 5
    return (centres[labels] + noise * rng.normal(size=(num, dim))).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 5, 10])
def test_knn_equals_scikit_learn(k: int) -> None:
    (train, train_labels), (test, test_labels) = clusters(400, seed=1), clusters(1203, seed=2)
    oracle = KNeighborsClassifier(k, metric="cosine").fit(train, train_labels)
    assert np.array_equal(knn_predict(train, train_labels, test, k=k), oracle.predict(test))
    assert knn_accuracy(train, train_labels, test, test_labels, k=k) == pytest.approx(oracle.score(test, test_labels))


def test_knn_ties_go_to_the_smallest_label_and_lengths_do_not_matter() -> None:
    train = np.array([[1, 0], [0.99, 0.1], [0, 1], [0.1, 0.99]], dtype=np.float32)
    labels = np.array([3, 3, 1, 1])
    assert knn_predict(train, labels, np.array([[1, 0.001]], dtype=np.float32), k=4).tolist() == [1]
    assert knn_predict(train * [[5], [0.1], [9], [2]], labels, np.array([[100, 1]]), k=2).tolist() == [3]


def test_knn_needs_k_images() -> None:
    features, labels = clusters(5, seed=0)
    with pytest.raises(ValueError, match="k = 10 neighbours of 5 training images"):
        knn_predict(features, labels, features, k=10)


def test_linear_probe_equals_scikit_learn_on_standardised_features() -> None:
    (train, train_labels), (test, test_labels) = clusters(500, seed=1), clusters(500, seed=2)
    train, test = train * np.linspace(0.1, 30, 12, dtype=np.float32), test * np.linspace(0.1, 30, 12, dtype=np.float32)
    probe = linear_probe(train, train_labels, test, test_labels, penalties=(0.1,))
    mean, scale = train.mean(axis=0), train.std(axis=0)
    oracle = LogisticRegression(C=1 / (500 * 0.1), max_iter=1000).fit((train - mean) / scale, train_labels)
    assert probe.penalty == 0.1 and probe.converged
    assert probe.accuracy == pytest.approx(oracle.score((test - mean) / scale, test_labels), abs=0.003)


def test_the_penalty_is_picked_without_the_test_labels() -> None:
    (train, train_labels), (test, test_labels) = (
        clusters(300, seed=1, dim=60, noise=3),
        clusters(300, seed=2, dim=60, noise=3),
    )
    probe = linear_probe(train, train_labels, test, test_labels)
    shuffled = linear_probe(train, train_labels, test, np.random.default_rng(0).permutation(test_labels))
    assert probe.penalty == shuffled.penalty
    assert probe.picked_accuracy == shuffled.picked_accuracy
    assert probe.accuracy > 0.6 > 0.3 > shuffled.accuracy


def test_more_noise_wants_more_penalty() -> None:
    rng = np.random.default_rng(0)
    (train, labels), (test, test_labels) = clusters(150, seed=1), clusters(150, seed=2)
    drowned = [np.hstack([x, 3 * rng.normal(size=(150, 300)).astype(np.float32)]) for x in (train, test)]
    probe = linear_probe(drowned[0], labels, drowned[1], test_labels)
    assert probe.penalty >= 0.1
    weakest = linear_probe(drowned[0], labels, drowned[1], test_labels, penalties=(min(PENALTIES),))
    assert probe.accuracy >= weakest.accuracy


def test_constant_features_and_few_images_are_no_trouble() -> None:
    features, labels = clusters(20, seed=1)
    features[:, 3] = 7
    assert 0 <= linear_probe(features, labels, features, labels).accuracy <= 1
    with pytest.raises(ValueError, match="two training images of every class or more"):
        linear_probe(features[:5], labels[:5], features, labels)
