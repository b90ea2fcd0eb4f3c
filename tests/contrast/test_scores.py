"""kNN, the linear probe, logistic regression and few-shot against oracles, and what they may not look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from contrast.evaluation.fewshot import DEFAULT_SHOTS, NUM_DRAWS, draw_shots, few_shot_accuracies
from contrast.evaluation.geometry import RANKME_IMAGES
from contrast.evaluation.groups import NUM_GROUPS
from contrast.evaluation.holdout import hold_out_tenth
from contrast.evaluation.knn import DEFAULT_KS, NUM_NEIGHBOURS, knn_accuracies, knn_predict
from contrast.evaluation.linear import BATCH_SIZE, LEARNING_RATES, MOMENTUM, count_steps, linear_probe, train_heads
from contrast.evaluation.logistic import PENALTIES, logistic_regression
from contrast.orders import draw_order


def clusters(num: int, *, seed: int, noise: float = 1.6, dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(5, dim))
    labels = np.arange(num) % 5
    return (centres[labels] + noise * rng.normal(size=(num, dim))).astype(np.float32), labels


def test_the_settings_of_the_scores_are_the_documented_ones() -> None:
    """In docs/evaluation.md: another number makes other scores under the same name."""
    assert (DEFAULT_KS, NUM_NEIGHBOURS) == ((1, 10, 20, 200), 10)
    assert (DEFAULT_SHOTS, NUM_DRAWS) == ((1, 5, 10), 200)
    assert (BATCH_SIZE, MOMENTUM, len(LEARNING_RATES)) == (256, 0.9, 9)
    assert (RANKME_IMAGES, NUM_GROUPS) == (25_600, 2000)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_knn_equals_scikit_learn(k: int) -> None:
    (train, train_labels), (test, test_labels) = clusters(400, seed=1), clusters(1203, seed=2)
    oracle = KNeighborsClassifier(k, metric="cosine").fit(train, train_labels)
    assert np.array_equal(knn_predict(train, train_labels, test, ks=(k,))[k], oracle.predict(test))
    accuracies = knn_accuracies(train, train_labels, test, test_labels, ks=(k,))
    assert accuracies == {k: pytest.approx(oracle.score(test, test_labels))}


def test_knn_ties_go_to_the_smallest_label_and_lengths_do_not_matter() -> None:
    train = np.array([[1, 0], [0.99, 0.1], [0, 1], [0.1, 0.99]], dtype=np.float32)
    labels = np.array([3, 3, 1, 1])
    assert knn_predict(train, labels, np.array([[1, 0.001]], dtype=np.float32), ks=(4,))[4].tolist() == [1]
    assert knn_predict(train * [[5], [0.1], [9], [2]], labels, np.array([[100, 1]]), ks=(2,))[2].tolist() == [3]


def test_knn_needs_k_images() -> None:
    features, labels = clusters(5, seed=0)
    with pytest.raises(ValueError, match="k = 10 neighbours of 5 training images"):
        knn_predict(features, labels, features, ks=(10,))


def test_logistic_regression_equals_scikit_learn_on_standardised_features() -> None:
    (train, train_labels), (test, test_labels) = clusters(500, seed=1), clusters(500, seed=2)
    train, test = train * np.linspace(0.1, 30, 12, dtype=np.float32), test * np.linspace(0.1, 30, 12, dtype=np.float32)
    probe = logistic_regression(train, train_labels, test, test_labels, penalties=(0.1,))
    mean, scale = train.mean(axis=0), train.std(axis=0)
    oracle = LogisticRegression(C=1 / (500 * 0.1), max_iter=1000).fit((train - mean) / scale, train_labels)
    assert probe.penalty == 0.1 and probe.converged
    assert probe.accuracy == pytest.approx(oracle.score((test - mean) / scale, test_labels), abs=0.003)


def test_the_penalty_is_picked_without_the_test_labels() -> None:
    (train, train_labels), (test, test_labels) = (
        clusters(300, seed=1, dim=60, noise=3),
        clusters(300, seed=2, dim=60, noise=3),
    )
    probe = logistic_regression(train, train_labels, test, test_labels)
    shuffled = logistic_regression(train, train_labels, test, np.random.default_rng(0).permutation(test_labels))
    assert probe.penalty == shuffled.penalty
    assert probe.picked_accuracy == shuffled.picked_accuracy
    assert probe.accuracy > 0.6 > 0.3 > shuffled.accuracy


def test_more_noise_wants_more_penalty() -> None:
    rng = np.random.default_rng(0)
    (train, labels), (test, test_labels) = clusters(150, seed=1), clusters(150, seed=2)
    drowned = [np.hstack([x, 3 * rng.normal(size=(150, 300)).astype(np.float32)]) for x in (train, test)]
    probe = logistic_regression(drowned[0], labels, drowned[1], test_labels)
    assert probe.penalty >= 0.1
    weakest = logistic_regression(drowned[0], labels, drowned[1], test_labels, penalties=(min(PENALTIES),))
    assert probe.accuracy >= weakest.accuracy


def test_constant_features_and_few_images_are_no_trouble() -> None:
    features, labels = clusters(20, seed=1)
    features[:, 3] = 7
    for fit in (logistic_regression, linear_probe):
        assert 0.6 < fit(features, labels, features, labels).accuracy <= 1
        with pytest.raises(ValueError, match="two training images of every class or more"):
            fit(features[:5], labels[:5], features, labels)


@pytest.mark.parametrize("fit", [linear_probe, logistic_regression])
def test_the_pick_is_by_images_that_were_not_fitted(fit: Callable[..., Any]) -> None:
    """Of noise alone: fitted images would be told nearly all right, the others by chance."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(400, 300)).astype(np.float32), rng.permutation(np.arange(400) % 2)
    assert fit(features, labels, features, labels).picked_accuracy < 0.75


def test_of_equally_good_settings_the_most_cautious_is_picked() -> None:
    features, labels = np.repeat([[-1.0], [1.0]], 20, axis=0).astype(np.float32), np.repeat([0, 1], 20)
    given = (features, labels, features, labels)
    assert linear_probe(*given, learning_rates=(0.3, 0.1, 1.0)).learning_rate == 0.1
    assert logistic_regression(*given, penalties=(0.1, 1.0, 0.01)).penalty == 1.0


@pytest.mark.parametrize("k", [1, 3, 20])
def test_many_k_at_once_are_each_of_them_alone(k: int) -> None:
    (train, train_labels), (test, test_labels) = clusters(200, seed=1), clusters(301, seed=2)
    together = knn_accuracies(train, train_labels, test, test_labels, ks=(20, 1, 3))
    assert list(together) == [20, 1, 3]
    oracle = KNeighborsClassifier(k, metric="cosine").fit(train, train_labels)
    assert together[k] == pytest.approx(oracle.score(test, test_labels))


# ---------------------------------------------------------------------------------------------------------------------
# The linear probe


@pytest.mark.parametrize(("num", "batch_size"), [(600, 256), (100, 100)])
def test_heads_side_by_side_are_torch_s_own_sgd_one_by_one(num: int, batch_size: int) -> None:
    features, labels = clusters(num, seed=1)
    rates, steps = (0.01, 0.3), 7
    heads = train_heads(
        features, labels, learning_rates=rates, num_classes=5, num_steps=steps, device=torch.device("cpu")
    )
    inputs = torch.from_numpy((features - features.mean(axis=0)) / features.std(axis=0))
    for number, rate in enumerate(rates):
        layer = torch.nn.Linear(12, 5)
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            epoch, position = divmod(step, num // batch_size)  # whole batches alone
            rows = draw_order(num, seed=0, epoch=epoch)[position * batch_size : (position + 1) * batch_size]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(inputs[rows]), torch.from_numpy(labels[rows])).backward()
            optimizer.step()
            schedule.step()
        torch.testing.assert_close(heads.weight[:, number].T, layer.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(heads.bias[number], layer.bias.detach(), atol=1e-5, rtol=1e-4)


def test_the_linear_probe_comes_close_to_the_best_linear_classifier() -> None:
    (train, train_labels), (test, test_labels) = clusters(2000, seed=1), clusters(2000, seed=2)
    oracle = LogisticRegression(max_iter=1000).fit(train, train_labels)
    best = oracle.score(test, test_labels)
    heads = train_heads(train, train_labels, learning_rates=(0.1, 1.0), num_classes=5, device=torch.device("cpu"))
    assert heads.accuracies(test, test_labels) == pytest.approx([best, best], abs=0.005)
    probe = linear_probe(train, train_labels, test, test_labels)
    assert probe.learning_rate in LEARNING_RATES
    assert probe.accuracy == pytest.approx(best, abs=0.03)  # two hundred images pick the learning rate


def test_the_learning_rate_is_picked_on_a_tenth_and_without_the_test_labels() -> None:
    (train, train_labels), (test, test_labels) = clusters(300, seed=1), clusters(300, seed=2)
    options = {"learning_rates": (0.01, 300.0), "num_steps": 60}
    probe = linear_probe(train, train_labels, test, test_labels, **options)
    shuffled = linear_probe(train, train_labels, test, np.random.default_rng(0).permutation(test_labels), **options)
    assert probe.learning_rate == shuffled.learning_rate == 0.01
    assert probe.picked_accuracy == shuffled.picked_accuracy
    assert probe.accuracy > 0.6 > 0.3 > shuffled.accuracy


def test_the_head_that_is_scored_was_trained_on_all_labels() -> None:
    (train, train_labels), (test, test_labels) = clusters(30, seed=1), clusters(4000, seed=2)
    heads = train_heads(
        train, train_labels, learning_rates=(0.1,), num_classes=5, num_steps=30, device=torch.device("cpu")
    )
    probe = linear_probe(train, train_labels, test, test_labels, learning_rates=(0.1,), num_steps=30)
    assert [probe.accuracy] == heads.accuracies(test, test_labels)


def test_a_pass_is_fifty_epochs_within_bounds_and_ten_of_many_images() -> None:
    steps = {1: 300, 6: 300, 20: 1000, 40: 2000, 195: 2000, 200: 2000, 500: 5000}
    assert {steps_per_epoch: count_steps(steps_per_epoch) for steps_per_epoch in steps} == steps


def test_the_held_out_tenth_is_balanced_and_never_the_whole_of_a_class() -> None:
    held_out = hold_out_tenth(np.arange(100) % 5)
    assert np.bincount((np.arange(100) % 5)[held_out]).tolist() == [2, 2, 2, 2, 2]
    assert hold_out_tenth(np.array([0, 0, 1, 1, 1])).tolist() == [False, True, False, False, True]
    with pytest.raises(ValueError, match="two training images of every class"):
        hold_out_tenth(np.array([0, 0, 1]))


def test_small_classes_beside_a_large_one_are_held_out_from_too() -> None:
    sizes = [10] + [9] * 17 + [2, 1]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(20), sizes))
    held_out = hold_out_tenth(labels)
    assert np.bincount(labels[held_out], minlength=20).tolist() == [1] * 19 + [0]  # the lone image is fitted on
    for label in range(19):
        assert np.flatnonzero(held_out & (labels == label)).tolist() == [np.flatnonzero(labels == label)[-1]]


def test_of_large_classes_every_tenth_image_is_held_out() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (10, 29, 40)))
    expected = np.zeros(79, dtype=bool)
    for label in range(3):
        expected[np.flatnonzero(labels == label)[9::10]] = True
    assert np.array_equal(hold_out_tenth(labels), expected)


# ---------------------------------------------------------------------------------------------------------------------
# Few-shot


def test_few_shot_is_the_nearest_class_mean_over_the_draws() -> None:
    (train, train_labels), (test, test_labels) = clusters(100, seed=1), clusters(80, seed=2)
    scores = few_shot_accuracies(train, train_labels, test, test_labels, shots=(1, 5), num_draws=12)
    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    for shots, score in scores.items():
        accuracies = []
        for draw in range(12):
            rows = draw_shots(train_labels, count=shots, draw=draw)
            right = 0
            for query, label in zip(test, test_labels, strict=True):
                cosines = [
                    float(query @ unit[rows[c]].mean(axis=0) / np.linalg.norm(unit[rows[c]].mean(axis=0)))
                    for c in range(5)
                ]
                right += int(np.argmax(cosines) == label)
            accuracies.append(right / len(test))
        assert score.mean == pytest.approx(np.mean(accuracies))
        assert score.interval == pytest.approx(2.201 * np.std(accuracies, ddof=1) / np.sqrt(12), rel=1e-3)  # t(11)
    assert scores[1].mean < scores[5].mean


def test_draws_are_of_every_class_without_repetition_and_differ() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(90) % 3)
    rows = draw_shots(labels, count=10, draw=0)
    assert rows.shape == (3, 10) and len(set(rows.ravel().tolist())) == 30
    assert (labels[rows] == np.arange(3)[:, None]).all()
    assert np.array_equal(rows, draw_shots(labels, count=10, draw=0))
    assert not np.array_equal(rows, draw_shots(labels, count=10, draw=1))
    assert not np.array_equal(rows[:, :5], draw_shots(labels, count=5, draw=0))


def test_more_shots_than_images_are_refused() -> None:
    features, labels = clusters(40, seed=1)
    with pytest.raises(ValueError, match="10 shots of a class that has 8 training images: raise --num-train"):
        few_shot_accuracies(features, labels, features, labels)
