"""View policies against their formulas."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from synthgen.draws import draw_truncated_normal
from synthgen.vectors import VectorFiles, VectorSet
from synthgen.views import POLICIES, ViewPolicy, make_policy, policy_from_recipe
from synthgen.views.gaussian import Gaussian

# Pinned across versions of numpy and scipy: if these change, every dataset changes.
GOLDEN_STEPS = {
    ("gaussian", 0): "845fdf462509ab91",
    ("gaussian", 1): "88583fb3382a08fd",
    ("independent", 0): "1c87a1b1db2619ee",
    ("independent", 1): "44165bfa5a3a7871",
    ("ball", 0): "42d4feec2c68303b",
    ("angular", 0): "cdd6496062fa5a35",
    ("steer", 0): "12c7bed441c7bb51",
    ("directions", 0): "e2e78b4eaf498a46",
    ("mixture", 0): "7a63c93089190239",
}
ANCHOR = 0.7 * draw_truncated_normal(seed=0, stream="anchor", first=100, count=400, dim=64, bound=2.0)


def make_any(name: str, vectors: Callable[..., VectorSet], dim: int = 64) -> ViewPolicy:
    """A policy of every name, with vectors and components where it needs them."""
    parameters: dict[str, Any] = {
        "steer": {"walks": vectors("walks", dim=dim)},
        "directions": {"directions": vectors("directions", dim=dim)},
        "mixture": {
            "components": (
                make_policy("gaussian"),
                make_policy("angular", degrees=30),
                make_policy("steer", walks=vectors("walks", dim=dim), edits="zoom"),
                make_policy("directions", directions=vectors("directions", dim=dim)),
            ),
            "weights": (0.4, 0.3, 0.2, 0.1),
        },
    }.get(name, {})
    return make_policy(name, **parameters)


def test_gaussian_is_a_scaled_cut_step() -> None:
    policy = make_policy("gaussian", std=0.4)
    latents, parameters = policy.latents(ANCHOR, seed=0, view=1, first=100, truncation=0.7)
    expected = draw_truncated_normal(seed=0, stream="view/1", first=100, count=400, dim=64, bound=2.0)
    np.testing.assert_allclose(latents, ANCHOR + 0.7 * 0.4 * expected, rtol=0, atol=1e-15)
    assert parameters == [{"policy": "gaussian", "std": 0.4}] * 400


def test_gaussian_reports_the_deviation_that_it_draws() -> None:
    policy = Gaussian(std=0.4)
    latents, _ = policy.latents(ANCHOR, seed=0, view=0, first=100, truncation=0.7)
    measured = float((latents - ANCHOR).std())
    assert policy.effective_std(truncation=0.7) == pytest.approx(measured, rel=0.01)
    assert f"{policy.effective_std(truncation=0.7):.3g}" in policy.describe(truncation=0.7)
    assert policy.effective_std(truncation=1.0) == pytest.approx(0.4 * 0.8796, rel=1e-3)


def test_gaussian_without_a_step_repeats_the_anchor() -> None:
    latents, _ = make_policy("gaussian", std=0).latents(ANCHOR, seed=0, view=0, first=100, truncation=0.7)
    np.testing.assert_array_equal(latents, ANCHOR)


def test_independent_is_drawn_as_an_anchor_is_and_knows_nothing_of_it() -> None:
    latents, parameters = make_policy("independent").latents(ANCHOR, seed=0, view=0, first=100, truncation=0.7)
    assert np.abs(latents).max() <= 1.4
    assert latents.std() == pytest.approx(ANCHOR.std(), rel=0.02)
    assert abs(np.corrcoef(latents.reshape(-1), ANCHOR.reshape(-1))[0, 1]) < 0.02
    assert parameters == [{"policy": "independent"}] * 400


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_a_function_of_seed_view_and_index(name: str, vectors: Callable[..., VectorSet]) -> None:
    policy = make_any(name, vectors)
    whole, stored = policy.latents(ANCHOR, seed=0, view=0, first=100, truncation=0.7)
    part, of_part = policy.latents(ANCHOR[30:50], seed=0, view=0, first=130, truncation=0.7)
    np.testing.assert_array_equal(part, whole[30:50])
    assert of_part == stored[30:50]
    for row in (0, 17, 399):
        alone, of_row = policy.latents(ANCHOR[row : row + 1], seed=0, view=0, first=100 + row, truncation=0.7)
        np.testing.assert_array_equal(alone[0], whole[row])
        assert of_row == stored[row : row + 1]
    for change in ({"view": 1}, {"seed": 1}, {"first": 101}):
        other, _ = policy.latents(ANCHOR, **({"seed": 0, "view": 0, "first": 100, "truncation": 0.7} | change))
        assert not np.isclose(other, whole).all(axis=1).any()


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_stored_has_constant_keys_and_plain_types(name: str, vectors: Callable[..., VectorSet]) -> None:
    """Readers that make a table of the groups' json need them the same in all rows; no key may hold a dot."""
    _, stored = make_any(name, vectors).latents(ANCHOR, seed=0, view=0, first=100, truncation=0.7)
    kinds = [{key: type(value) for key, value in row.items()} for row in stored]
    assert all(kind == kinds[0] for kind in kinds)
    assert set(kinds[0].values()) <= {float, str, list} and not any("." in key for key in kinds[0])
    assert {row["policy"] for row in stored} == {name}


@pytest.mark.parametrize(("name", "view", "golden"), [(*place, digest) for place, digest in GOLDEN_STEPS.items()])
def test_golden_steps(name: str, view: int, golden: str, vectors: Callable[..., VectorSet]) -> None:
    """From an anchor of zeros, so that the anchor's draws have no part in it; from ones where zeros stay zeros."""
    anchor = np.ones((1000, 128)) if name in ("angular", "mixture") else np.zeros((1000, 128))
    latents, _ = make_any(name, vectors, 128).latents(anchor, seed=0, view=view, first=0, truncation=1.0)
    # In eighths of a thousandth: the last bits of sines and powers belong to the C library.
    exact = latents.astype(np.float32) if name in ("gaussian", "independent") else np.round(latents * 8000)
    assert hashlib.sha256(exact.tobytes()).hexdigest()[:16] == golden


@pytest.mark.parametrize("name", POLICIES)
def test_a_recipe_entry_gives_the_policy_back(name: str, vectors: Callable[..., VectorSet]) -> None:
    policy = make_any(name, vectors)
    paths = VectorFiles(paths=(vectors.path("directions", 64), vectors.path("walks", 64)))  # type: ignore[attr-defined]
    again = policy_from_recipe(json.loads(json.dumps(policy.recipe())), vectors=paths)
    assert again == policy and again.recipe() == policy.recipe()
    assert policy.recipe()["policy"] == name


def test_a_recipe_entry_cannot_name_a_file(vectors: Callable[..., VectorSet]) -> None:
    """A stranger's manifest would have it read."""
    vectors("walks")
    path = str(vectors.path("walks", 64))  # type: ignore[attr-defined]
    for kind, policy in (("walks", "steer"), ("directions", "directions")):
        with pytest.raises(ValueError, match=f"names {kind} by a path: a recipe pins them by {kind}_sha256"):
            policy_from_recipe({"policy": policy, kind: path})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "names no policy"),
        ({"policy": 1}, "names no policy"),
        ({"policy": "mixture"}, "a mixture without weights"),
        ({"policy": "mixture", "weights": [0.5, 0.5], "components": 1}, "a mixture without components"),
        ({"policy": "mixture", "weights": [0.5, 0.5], "components": [1, 1]}, "views: 1 names no policy"),
    ],
)
def test_a_recipe_entry_that_no_render_writes_is_named(entry: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_from_recipe(entry)


def test_wrong_policies_are_named() -> None:
    with pytest.raises(ValueError, match="no view policy 'spiral': choose one of gaussian, independent"):
        make_policy("spiral")
    with pytest.raises(ValueError, match="'independent' has no std: omit --std"):
        make_policy("independent", std=0.3)
    for std in (-0.1, float("nan"), float("inf"), True, "wide"):
        with pytest.raises(ValueError, match="give a number from 0 to 100"):
            make_policy("gaussian", std=std)
