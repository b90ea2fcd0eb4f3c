"""View policies against their formulas."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from synthgen.draws import draw_truncated_normal
from synthgen.views import POLICIES, make_policy, policy_from_recipe
from synthgen.views.gaussian import Gaussian

# Pinned across versions of numpy and scipy: if these change, every dataset changes.
GOLDEN_STEPS = {
    ("gaussian", 0): "845fdf462509ab91",
    ("gaussian", 1): "88583fb3382a08fd",
    ("independent", 0): "1c87a1b1db2619ee",
    ("independent", 1): "44165bfa5a3a7871",
}
ANCHOR = 0.7 * draw_truncated_normal(seed=0, stream="anchor", first=100, count=400, dim=64, bound=2.0)


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
def test_every_policy_is_a_function_of_seed_view_and_index(name: str) -> None:
    policy = make_policy(name)
    whole, _ = policy.latents(ANCHOR, seed=0, view=0, first=100, truncation=0.7)
    part, _ = policy.latents(ANCHOR[30:50], seed=0, view=0, first=130, truncation=0.7)
    np.testing.assert_array_equal(part, whole[30:50])
    for change in ({"view": 1}, {"seed": 1}, {"first": 101}):
        other, _ = policy.latents(ANCHOR, **({"seed": 0, "view": 0, "first": 100, "truncation": 0.7} | change))
        assert not np.isclose(other, whole).all(axis=1).any()


@pytest.mark.parametrize(("name", "view", "golden"), [(*place, digest) for place, digest in GOLDEN_STEPS.items()])
def test_golden_steps(name: str, view: int, golden: str) -> None:
    """From an anchor of zeros, so that the anchor's draws have no part in it."""
    latents, _ = make_policy(name).latents(np.zeros((1000, 128)), seed=0, view=view, first=0, truncation=1.0)
    assert hashlib.sha256(latents.astype(np.float32).tobytes()).hexdigest()[:16] == golden


@pytest.mark.parametrize("name", POLICIES)
def test_a_recipe_entry_gives_the_policy_back(name: str) -> None:
    policy = make_policy(name)
    assert policy_from_recipe(policy.recipe()) == policy
    assert policy.recipe()["policy"] == name


def test_wrong_policies_are_named() -> None:
    with pytest.raises(ValueError, match="no view policy 'spiral': choose one of gaussian, independent"):
        make_policy("spiral")
    with pytest.raises(ValueError, match="'independent' has no std: leave --std away"):
        make_policy("independent", std=0.3)
    for std in (-0.1, float("nan"), float("inf"), True, "wide"):
        with pytest.raises(ValueError, match="give a number from 0 on"):
            make_policy("gaussian", std=std)
