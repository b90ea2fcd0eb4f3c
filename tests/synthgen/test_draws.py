"""Draws: a function of (seed, stream, index) alone, the same in blocks, slices and single rows."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import stats

from shards.recipe import Recipe
from synthgen.draws import draw_labels, draw_truncated_normal, draw_uniform, draw_words, truncated_normal_std
from synthgen.plan import draw_groups

# Pinned across versions of numpy and scipy: if these change, every dataset changes.
GOLDEN_FIRST_WORDS = [3325476624603823976, 13518118129655227058]
GOLDEN_WORDS = "b13832b441e8373f"
GOLDEN_FAR_WORDS = "dbee1a75ac04e826"
GOLDEN_UNIFORM = "ab13a196149c9637"
GOLDEN_NORMAL = "389e79aa813ac856"
GOLDEN_LABELS = "91dcbae4359e3c3c"


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_golden_words() -> None:
    words = draw_words(seed=0, stream="anchor", first=0, count=1000, dim=128)
    assert words[0, :2].tolist() == GOLDEN_FIRST_WORDS
    assert sha256(words) == GOLDEN_WORDS
    assert sha256(draw_words(seed=7, stream="view/1", first=1_300_000_000, count=3, dim=5)) == GOLDEN_FAR_WORDS


def test_golden_draws() -> None:
    uniform = draw_uniform(seed=0, stream="anchor", first=0, count=1000, dim=128)
    assert sha256(uniform) == GOLDEN_UNIFORM
    # In float32, as they are used: the last bit of a double may change with the C library.
    normal = draw_truncated_normal(seed=0, stream="anchor", first=0, count=1000, dim=128, bound=2.0)
    assert sha256(normal.astype(np.float32)) == GOLDEN_NORMAL
    assert sha256(draw_labels(seed=0, first=0, count=1000, classes=tuple(range(10)))) == GOLDEN_LABELS


@pytest.mark.parametrize("dim", [1, 3, 4, 5, 128, 130])
@pytest.mark.parametrize("first", [0, 999, 1_300_000_000])
def test_block_slice_and_single_row_agree(dim: int, first: int) -> None:
    def draw(start: int, count: int) -> np.ndarray:
        return draw_truncated_normal(seed=3, stream="anchor", first=start, count=count, dim=dim, bound=2.0)

    block = draw(first, 20)
    assert block.shape == (20, dim)
    np.testing.assert_array_equal(draw(first + 5, 9), block[5:14])
    for row in (0, 7, 19):
        np.testing.assert_array_equal(draw(first + row, 1)[0], block[row])


@pytest.mark.parametrize("seed", [2**32, 2**32 + 7, 2**63 - 1])
def test_every_bit_of_a_seed_counts(seed: int) -> None:
    words = draw_words(seed=seed, stream="anchor", first=0, count=50, dim=4)
    for fewer_bits in {seed % 2**32, int(float(seed))} - {seed}:
        assert (draw_words(seed=fewer_bits, stream="anchor", first=0, count=50, dim=4) != words).all()


def test_no_two_rows_streams_or_seeds_share_a_word() -> None:
    """In GenRep, neighbour i + 1 of class k drew the noise of neighbour i of class k + 1: the seeds were sums."""
    parts = [
        draw_words(seed=seed, stream=stream, first=first, count=200, dim=16)
        for seed in (0, 1, 2)
        for stream in ("anchor", "view/0", "view/1", "class")
        for first in (0, 1_300_000_000)
    ]
    words = np.concatenate([part.reshape(-1) for part in parts])
    assert len(np.unique(words)) == len(words)


def test_no_two_images_of_a_dataset_share_noise() -> None:
    """The same collision one floor up: every latent of every group and view, and every step from its anchor."""
    recipe = Recipe(
        source={"truncation": 1.0},
        classes=tuple(range(10)),
        views=({"policy": "gaussian", "std": 0.5},) * 3,
        seed=0,
        image={"size": 32, "format": "png"},
    )
    draws = draw_groups(recipe, latent_dim=16, first=0, count=500)
    latents = draws.latents.astype(np.float64)
    steps = latents[1:] - latents[:1]
    assert len(np.unique(latents.reshape(-1, 16).round(4), axis=0)) == 4 * 500
    assert len(np.unique(steps.reshape(-1, 16).round(4), axis=0)) == 3 * 500


def test_uniforms_lie_strictly_inside() -> None:
    """The extreme words too: the naive (w >> 11) + 0.5 rounds up to exactly one."""
    extremes = np.array([0, 2**64 - 1], dtype=np.uint64)

    class Stub:
        def __init__(self, **_: object) -> None: ...

        def random_raw(self, size: int) -> np.ndarray:
            return np.resize(extremes, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "Philox", Stub)
        uniform = draw_uniform(seed=0, stream="anchor", first=0, count=1, dim=4)
        normal = draw_truncated_normal(seed=0, stream="anchor", first=0, count=1, dim=4, bound=2.0)
    assert uniform.min() > 0.0 and uniform.max() < 1.0
    assert normal.min() >= -2.0 and normal.max() <= 2.0 and np.isfinite(normal).all()


def test_truncated_normal_is_distributed_as_scipys() -> None:
    draws = draw_truncated_normal(seed=0, stream="anchor", first=0, count=2000, dim=128, bound=2.0)
    assert abs(draws.mean()) < 0.005
    assert draws.std() == pytest.approx(0.8796, abs=0.003)
    assert truncated_normal_std(2.0) == pytest.approx(0.8796, abs=1e-4)
    assert stats.kstest(draws.reshape(-1), stats.truncnorm(-2, 2).cdf).pvalue > 0.001
    # Neither neighbours in a row nor neighbouring rows know of each other.
    assert abs(np.corrcoef(draws[:, :-1].reshape(-1), draws[:, 1:].reshape(-1))[0, 1]) < 0.01
    assert abs(np.corrcoef(draws[:-1].reshape(-1), draws[1:].reshape(-1))[0, 1]) < 0.01


def test_bound_must_be_positive() -> None:
    with pytest.raises(ValueError, match="above 0"):
        draw_truncated_normal(seed=0, stream="anchor", first=0, count=1, dim=4, bound=0.0)


@pytest.mark.parametrize("classes", [tuple(range(10)), (3, 7, 42), tuple(range(1000)), (5,)])
def test_every_prefix_is_balanced_to_within_one(classes: tuple[int, ...]) -> None:
    labels = draw_labels(seed=1, first=0, count=3 * len(classes) + 2, classes=classes)
    assert set(labels.tolist()) == set(classes)
    for length in {1, len(classes) // 2 + 1, len(classes), 2 * len(classes) + 1, len(labels)}:
        counts = [int((labels[:length] == label).sum()) for label in classes]
        assert max(counts) - min(counts) <= 1
    for first in (2, len(classes) + 1):  # in the first run and in the second
        rest = draw_labels(seed=1, first=first, count=len(labels) - first, classes=classes)
        np.testing.assert_array_equal(rest, labels[first:])


def test_runs_are_permuted_differently_and_by_the_seed() -> None:
    classes = tuple(range(10))
    labels = draw_labels(seed=0, first=0, count=100, classes=classes).reshape(10, 10)
    assert len({tuple(run) for run in labels.tolist()}) == 10
    assert (labels.reshape(-1) != draw_labels(seed=1, first=0, count=100, classes=classes)).any()


def test_labels_without_classes_are_minus_one() -> None:
    assert draw_labels(seed=0, first=5, count=3, classes=()).tolist() == [-1, -1, -1]
