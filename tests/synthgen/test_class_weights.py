"""Deliberate imbalance: the proportions hold at every prefix, a group's class depends on its index alone."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import synthgen
from shards.dataset import GroupDataset
from synthgen.class_weights import LARGEST_RUN, draw_weighted_labels, parse_class_weights, spread_classes
from synthgen.cli import main

# Pinned: if this changes, every weighted dataset changes.
GOLDEN_WEIGHTED_LABELS = "5a99ad665fad0d34"
NAMES = ("plane", "car", "bird", "cat", "deer", "dog")


def draw(weights: tuple[int, ...], first: int, count: int, seed: int = 0) -> np.ndarray:
    classes = tuple(range(0, 2 * len(weights), 2))  # ids are not positions
    return draw_weighted_labels(seed=seed, first=first, count=count, classes=classes, weights=weights)


def worst_error(labels: np.ndarray, weights: tuple[int, ...]) -> float:
    """How far any class ever is from its share, over all prefixes; a plain count."""
    counts = np.cumsum(labels[:, None] == 2 * np.arange(len(weights)), axis=0)
    shares = np.arange(1, len(labels) + 1)[:, None] * np.asarray(weights) / sum(weights)
    return float(np.abs(counts - shares).max())


def test_golden_labels() -> None:
    labels = draw((3, 1, 1, 7, 2), 0, 1000)
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == GOLDEN_WEIGHTED_LABELS


@pytest.mark.parametrize(
    "weights", [(3, 1), (1, 1, 1), (9, 1), (5, 3, 2), (1, 2, 4, 8, 16, 32), (40, 1, 1, 1, 7, 7), (1,), (997, 3, 11)]
)
def test_every_prefix_is_within_one_of_its_share(weights: tuple[int, ...]) -> None:
    length = sum(weights)
    labels = draw(weights, 0, 4 * length)
    assert worst_error(labels, weights) < 1
    for run in labels.reshape(4, length):
        assert Counter(run.tolist()) == {2 * position: weight for position, weight in enumerate(weights)}


def test_many_random_weights_stay_within_one_of_their_share() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        weights = tuple(rng.integers(1, rng.integers(2, 60), size=rng.integers(2, 30)).tolist())
        assert worst_error(draw(weights, 0, 2 * sum(weights)), weights) < 1
    uneven = np.repeat(np.arange(2), (3, 3)) * 2
    assert worst_error(uneven, (1, 1)) >= 1, "the measure sees imbalance"


def test_block_slice_and_single_index_agree() -> None:
    weights = (5, 3, 1, 1)
    whole = draw(weights, 0, 200)
    for first, count in ((0, 1), (7, 50), (10, 10), (33, 101), (199, 1)):
        np.testing.assert_array_equal(draw(weights, first, count), whole[first : first + count])
    assert len(draw(weights, 5, 0)) == 0
    far = 1_000_000_007
    np.testing.assert_array_equal(draw(weights, far + 3, 20), draw(weights, far, 40)[3:23])


def test_runs_and_seeds_differ() -> None:
    weights = (1, 1, 1, 1, 1, 1, 4)
    runs = {tuple(run) for run in draw(weights, 0, 1000).reshape(-1, 10).tolist()}
    assert len(runs) > 90
    assert (draw(weights, 0, 100) != draw(weights, 0, 100, seed=1)).any()
    # 3:1 has four orders of which two keep within one; both directions come about equally often.
    counts = Counter(tuple(run) for run in draw((3, 1), 0, 8000).reshape(-1, 4).tolist())
    assert len(counts) == 2 and min(counts.values()) > 900


def test_classes_of_equal_weight_take_every_place_equally_often() -> None:
    labels = draw((2, 1, 1, 1), 0, 30_000).reshape(-1, 5)
    for place in range(5):
        counts = Counter(labels[:, place].tolist())
        alike = [counts[label] for label in (2, 4, 6)]
        assert max(alike) - min(alike) < 5 * max(max(alike), 1) ** 0.5 + 1, (place, counts)


def test_a_spread_is_found_for_every_small_weighting() -> None:
    """Earliest deadline first asserts that no place comes too late."""
    for weights in itertools.product(range(1, 6), repeat=4):
        assert len(spread_classes(weights)) == sum(weights)


def test_weights_from_text_file_and_mapping(tmp_path: Path) -> None:
    file = tmp_path / "w.txt"
    file.write_text("# long tail\n0:6  # most\ncat : 3\n\n5:3\n")

    def parse(selection: Any, classes: tuple[int, ...] = (0, 3, 5)) -> dict[int, int]:
        return parse_class_weights(selection, classes=classes, num_classes=6, class_names=NAMES)

    assert parse("0:3,cat:2") == {0: 3, 3: 2}, "the others have 1"
    assert parse(str(file)) == parse("0:2") == parse({0: 2}) == parse({"plane": 4, 3: 2, 5: 2}) == {0: 2}
    assert parse("0:2,3:2,5:2") == parse("0:1") == {}, "alike, they are no weights"
    assert parse("0:4,3:6", classes=(0, 3)) == {0: 2, 3: 3}


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("tail.txt", r"--class-weights tail\.txt: give 0:3,5:1, or an existing file"),
        ("0:3,5", "'5' is no class:weight, such as 0:3"),
        ("0:0", "weight '0' of class 0: give a whole number above 0; to leave a class out, use --classes"),
        ("0:0.5", r"weight '0\.5'"),
        ("0:-1", "weight '-1'"),
        ("0:", "weight ''"),
        ("0:1,plane:2", "class 0 is given twice"),
        ("1:2", "class 1 is not among --classes"),
        ("7:2", "no class 7"),
        ("cta:2", "did you mean 'cat'"),
        ({0: True}, "weight 'True'"),
        ([0, 3], "give a mapping"),
        (f"0:{LARGEST_RUN}", "add up to 1000002; round them until they add up to 1000000"),
    ],
)
def test_wrong_weights_are_named(selection: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_class_weights(selection, classes=(0, 3, 5), num_classes=6, class_names=NAMES)
    assert "\n" not in str(caught.value)


def test_a_list_longer_than_any_file_name_is_a_list() -> None:
    weights = {label: 2 + label % 2 for label in range(1000)}
    selection = ",".join(f"{label}:{weight}" for label, weight in weights.items())
    assert parse_class_weights(selection, classes=tuple(weights), num_classes=1000) == weights
    with pytest.raises(ValueError, match="'weights' is no class:weight"):
        parse_class_weights(f"{selection},weights", classes=tuple(weights), num_classes=1000)


def test_weights_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no classes: omit --class-weights"):
        parse_class_weights("0:3", classes=(), num_classes=0)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"empty\.txt: no class:weight in it"):
        parse_class_weights(str(tmp_path / "empty.txt"), classes=(0,), num_classes=1)


def test_a_weighted_dataset_is_as_its_recipe_says(tiny_weights: Path, tmp_path: Path) -> None:
    options = ["--weights", str(tiny_weights), "--devices=cpu", "--dtype=float32", "--quiet", "--shard-size=15"]

    def run(name: str, *more: str) -> Any:
        return CliRunner().invoke(main, ["render", f"--out={tmp_path / name}", *options, *more])

    weighted = ["--classes=cat,dog,plane", "--class-weights=cat:3"]
    assert run("d", "--n=30", *weighted).exit_code == 0
    manifest = synthgen.job.load_manifest(tmp_path / "d")
    assert manifest.recipe.source["class_weights"] == {"3": 3} and manifest.recipe.classes == (0, 3, 5)
    assert Counter(GroupDataset(tmp_path / "d").batch(range(30))[1].tolist()) == {3: 18, 0: 6, 5: 6}
    tars = [path.read_bytes() for path in sorted(tmp_path.glob("d/data/*.tar"))]
    assert run("d", "--n=45", *weighted).exit_code == 0, "it grows"
    assert [path.read_bytes() for path in sorted(tmp_path.glob("d/data/*.tar"))][:2] == tars
    refused = run("d", "--n=45", "--classes=cat,dog,plane")
    assert refused.exit_code == 2
    assert "source.class_weights: {'3': 3} in the folder, nothing asked for" in refused.stderr
    # Weights that are all alike are the recipe without any.
    assert run("e", "--n=15", "--classes=cat,dog").exit_code == 0
    assert run("e", "--n=15", "--classes=cat,dog", "--class-weights=3:2,5:2").exit_code == 0
    assert "class_weights" not in synthgen.job.load_manifest(tmp_path / "e").recipe.source
