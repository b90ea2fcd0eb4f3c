"""The policies beyond gaussian and independent, against closed forms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from synthgen.draws import draw_normal, draw_truncated_normal
from synthgen.vectors import VectorSet
from synthgen.views import make_policy
from synthgen.views.mixture import Mixture
from synthgen.views.options import policy_from_options

DIM = 16
PLACE = {"seed": 3, "view": 1, "first": 50, "truncation": 0.5}
ANCHOR = 0.5 * draw_truncated_normal(seed=3, stream="anchor", first=50, count=4000, dim=DIM, bound=2.0)


def lengths(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows, axis=1)


# ---------------------------------------------------------------------------------------------------------------------
# ball


def test_ball_fills_a_ball_evenly() -> None:
    """Distances have the distribution r^dim, and directions prefer no axis and no corner."""
    latents, stored = make_policy("ball", radius=0.4).latents(ANCHOR, **PLACE)
    steps = latents - ANCHOR
    largest = 0.5 * math.sqrt(DIM) * 0.4
    relative = lengths(steps) / largest
    assert relative.max() <= 1 + 1e-9
    assert stats.kstest(relative, lambda r: np.clip(r, 0, 1) ** DIM).pvalue > 0.01
    np.testing.assert_allclose([row["radius"] / 0.4 for row in stored], relative, rtol=0, atol=1e-9)
    # A cube, which is what coordinates drawn one by one would fill, has a kurtosis of its own along its diagonal.
    directions = steps / lengths(steps)[:, None]
    for axis in (np.eye(DIM)[0], np.eye(DIM)[9], np.ones(DIM) / math.sqrt(DIM)):
        cosines = directions @ axis
        assert stats.kstest((cosines + 1) / 2, stats.beta((DIM - 1) / 2, (DIM - 1) / 2).cdf).pvalue > 0.01
    in_cube = 0.4 * (2 * np.random.default_rng(0).random((4000, DIM)) - 1)
    cube = lengths(in_cube) / (math.sqrt(DIM) * 0.4)
    assert stats.kstest(cube, lambda r: np.clip(r, 0, 1) ** DIM).pvalue < 1e-6, "the test can see a cube"


def test_ball_of_no_radius_repeats_the_anchor() -> None:
    np.testing.assert_array_equal(make_policy("ball", radius=0).latents(ANCHOR, **PLACE)[0], ANCHOR)


def test_normal_draws_are_normal_and_not_cut() -> None:
    draws = draw_normal(seed=0, stream="view/0", first=0, count=4000, dim=DIM)
    assert stats.kstest(draws.reshape(-1), stats.norm.cdf).pvalue > 0.01 and np.abs(draws).max() > 3
    np.testing.assert_array_equal(draw_normal(seed=0, stream="view/0", first=7, count=3, dim=DIM), draws[7:10])


# ---------------------------------------------------------------------------------------------------------------------
# angular


def test_angular_keeps_every_rows_length_and_turns_it_by_the_angle_drawn() -> None:
    latents, stored = make_policy("angular", degrees=50).latents(ANCHOR, **PLACE)
    np.testing.assert_allclose(lengths(latents), lengths(ANCHOR), rtol=1e-12)
    cosines = (latents * ANCHOR).sum(axis=1) / lengths(ANCHOR) ** 2
    drawn = np.array([row["degrees"] for row in stored])
    np.testing.assert_array_equal(drawn, drawn.round(6))
    np.testing.assert_allclose(np.degrees(np.arccos(np.clip(cosines, -1, 1))), drawn, rtol=0, atol=1e-5)
    assert stats.kstest(drawn / 50, stats.uniform.cdf).pvalue > 0.01
    # Across the anchor, all directions are alike.
    across = latents - cosines[:, None] * ANCHOR
    assert abs(across.mean()) < 0.01 and np.abs(np.corrcoef(across.T) - np.eye(DIM)).max() < 0.15


def test_angular_knows_no_other_row() -> None:
    """GenRep normalised over the whole matrix: a row's length came from its neighbours'."""
    policy = make_policy("angular", degrees=50)
    whole, _ = policy.latents(ANCHOR[:10], **PLACE)
    other = ANCHOR[:10].copy()
    other[5:] *= 100
    changed, _ = policy.latents(other, **PLACE)
    np.testing.assert_array_equal(changed[:5], whole[:5])
    over_the_matrix = whole / np.linalg.norm(whole) * np.linalg.norm(ANCHOR[:10])
    scaled = changed / np.linalg.norm(changed) * np.linalg.norm(ANCHOR[:10])
    assert np.abs(scaled[:5] - over_the_matrix[:5]).max() > 0.1, "the mistake would be seen"


@pytest.mark.parametrize("degrees", [0, 90, 180])
def test_angular_extremes(degrees: float) -> None:
    latents, stored = make_policy("angular", degrees=degrees).latents(ANCHOR, **PLACE)
    assert np.isfinite(latents).all() and max(row["degrees"] for row in stored) <= degrees
    if degrees == 0:
        np.testing.assert_allclose(latents, ANCHOR, rtol=0, atol=1e-15)
    still, _ = make_policy("angular", degrees=degrees).latents(np.zeros((3, DIM)), **PLACE)
    np.testing.assert_array_equal(still, 0)


# ---------------------------------------------------------------------------------------------------------------------
# steer and directions


def test_steer_adds_its_walks_by_the_alphas_that_it_stores(vectors: Callable[..., VectorSet]) -> None:
    walks = vectors("walks", dim=DIM)
    latents, stored = make_policy("steer", walks=walks, strength=0.8).latents(ANCHOR, **PLACE)
    alphas = np.array([[row[edit] for edit in walks.names] for row in stored])
    np.testing.assert_allclose(latents, ANCHOR + alphas @ walks.matrix, rtol=0, atol=1e-12)
    for column in alphas.T:
        assert stats.kstest((column / 0.8 + 1) / 2, stats.uniform.cdf).pvalue > 0.01
    assert np.abs(np.corrcoef(alphas.T) - np.eye(3)).max() < 0.06


def test_leaving_an_edit_out_changes_no_other(vectors: Callable[..., VectorSet]) -> None:
    walks = vectors("walks", dim=DIM)
    _, every = make_policy("steer", walks=walks).latents(ANCHOR, **PLACE)
    some = make_policy("steer", walks=walks, edits="rotate,zoom")
    latents, fewer = some.latents(ANCHOR, **PLACE)
    assert fewer == [{"policy": "steer", "zoom": row["zoom"], "rotate": row["rotate"]} for row in every]
    alphas = np.array([[row.get(edit, 0.0) for edit in walks.names] for row in fewer])
    np.testing.assert_allclose(latents, ANCHOR + alphas @ walks.matrix, rtol=0, atol=1e-12)
    assert some == make_policy("steer", walks=walks, edits=["zoom", "rotate"]), "one writing for one choice"


def test_directions_are_unit_vectors(vectors: Callable[..., VectorSet]) -> None:
    found = vectors("directions", dim=DIM)
    for factor in (0.0, 1000.0):
        with pytest.raises(ValueError, match=r"are no unit vectors \(lengths from .*\): make some with synthgen dir"):
            make_policy("directions", directions=replace(found, matrix=found.matrix * factor))


def test_directions_step_in_their_plane_alone(vectors: Callable[..., VectorSet]) -> None:
    found = vectors("directions", dim=DIM)
    latents, stored = make_policy("directions", directions=found, std=1.5).latents(ANCHOR, **PLACE)
    steps = np.array([row["steps"] for row in stored])
    np.testing.assert_allclose(latents, ANCHOR + 0.5 * steps @ found.matrix, rtol=0, atol=1e-12)
    assert stats.kstest(steps.reshape(-1) / 1.5, stats.truncnorm(-2, 2).cdf).pvalue > 0.01
    np.testing.assert_array_equal((latents - ANCHOR)[:, 5:], 0)


# ---------------------------------------------------------------------------------------------------------------------
# mixture


def test_mixture_rows_are_the_rows_of_the_policies_drawn() -> None:
    parts = {"gaussian": make_policy("gaussian", std=0.2), "independent": make_policy("independent")}
    mixture = Mixture(components=tuple(parts.values()), weights=(0.7, 0.3))
    latents, stored = mixture.latents(ANCHOR, **PLACE)
    alone = {name: policy.latents(ANCHOR, **PLACE)[0] for name, policy in parts.items()}
    for row, parameters in enumerate(stored):
        np.testing.assert_array_equal(latents[row], alone[parameters["drawn"]][row])
        assert parameters["std"] == (0.2 if parameters["drawn"] == "gaussian" else 0.0)
    share = np.mean([row["drawn"] == "gaussian" for row in stored])
    assert share == pytest.approx(0.7, abs=0.03)
    _, of_other_view = mixture.latents(ANCHOR, **(PLACE | {"view": 0}))
    same = np.mean([a["drawn"] == b["drawn"] for a, b in zip(stored, of_other_view, strict=True)])
    assert same == pytest.approx(0.7**2 + 0.3**2, abs=0.03), "views of one group are drawn apart"


def test_weights_are_kept_divided_by_their_sum() -> None:
    whole = policy_from_options("mixture:gaussian@7+independent@3")
    assert whole.recipe() == policy_from_options("mixture:gaussian@0.7+independent@0.3").recipe()
    assert whole.recipe() == {
        "policy": "mixture",
        "weights": [0.7, 0.3],
        "components": [{"policy": "gaussian", "std": 0.3}, {"policy": "independent"}],
    }
    json.dumps(whole.recipe(), allow_nan=False)


# ---------------------------------------------------------------------------------------------------------------------
# Options


def test_options_make_policies(vectors: Callable[..., VectorSet]) -> None:
    walks, path = vectors("walks", dim=DIM), vectors.path("walks", DIM)  # type: ignore[attr-defined]
    assert policy_from_options("angular", degrees=12) == make_policy("angular", degrees=12.0)
    assert policy_from_options("steer", walks=path, edits="zoom") == make_policy("steer", walks=walks, edits=("zoom",))
    mixed = policy_from_options(
        "mixture:ball:radius=0.5@1+steer:edits=zoom,rotate:strength=0.5@3", walks=path, generator="biggan-deep-32"
    )
    assert mixed == Mixture(
        components=(
            make_policy("ball", radius=0.5),
            make_policy("steer", walks=walks, edits="zoom,rotate", strength=0.5),
        ),
        weights=(1, 3),
    )
    assert mixed.vectors == (walks,) and "0.25 x (ball" in mixed.describe(truncation=1.0)


@pytest.mark.parametrize(
    ("views", "options", "message"),
    [
        ("ball", {"radius": -1}, "radius -1: give a number from 0 to 100"),
        ("ball", {"radius": math.inf}, "radius inf: give a number"),
        ("ball", {"std": 0.3}, "'ball' has no std: omit --std"),
        ("angular", {"degrees": 181}, "degrees 181: give a number from 0 to 180"),
        ("angular", {"degrees": True}, "degrees True"),
        ("steer", {"walks": "no.safetensors"}, "--walks no.safetensors: there is no such file"),
        ("steer", {}, "'steer' needs walks: give --walks"),
        (
            "steer",
            {"generator": "biggan-deep-128"},
            "no walks for biggan-deep-128: make some with synthgen steer train",
        ),
        ("directions", {}, "'directions' needs directions: give --directions"),
        ("gaussian", {"walks": "w.safetensors"}, "'gaussian' has no walks: omit --walks"),
        ("mixture", {}, "write a mixture as mixture:gaussian"),
        ("mixture:", {}, "write a mixture as"),
        ("mixture:gaussian@1", {}, "two policies or more"),
        ("mixture:gaussian+independent@1", {}, "'gaussian' has no weight; write gaussian@0.5"),
        ("mixture:gaussian:std=0.3:std=0.4@1+independent@1", {}, "gives std twice; give it once"),
        ("mixture:gaussian@1e308+independent@1e308", {}, "weight 1e+308: give a number from 0 to 1000000"),
        (
            "mixture:gaussian@0.5,independent@0.5",
            {},
            "has two weights; join the parts with +, as in mixture:gaussian",
        ),
        ("mixture:gaussian@x+independent@1", {}, "'x' in 'gaussian@x' is not a number"),
        ("mixture:gaussian@-1+independent@1", {}, "weight -1.0: give a number from 0 to 1000000"),
        ("mixture:gaussian@0+independent@1", {}, "weight of 0 draws nothing"),
        ("mixture:gaussian@1+spiral@1", {}, "no view policy 'spiral'"),
        ("mixture:gaussian:std@1+independent@1", {}, "'std' is no parameter"),
        ("mixture:gaussian:std=wide@1+independent@1", {}, "'wide' in 'std=wide'"),
        ("mixture:gaussian:radius=1@1+independent@1", {}, "'gaussian' has no radius"),
        ("mixture:gaussian@1+mixture@1", {}, "cannot hold another one"),
        ("mixture:gaussian@1+independent@1", {"std": 0.3}, "write std beside its policy"),
        ("mixture:gaussian@1+independent@1", {"walks": "w"}, "none of its policies has walks"),
        ("mixture:gaussian@1+steer:walks=w@1", {}, "give walks as --walks FILE"),
    ],
)
def test_wrong_options_are_named(views: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        policy_from_options(views, **options)  # type: ignore[arg-type]
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("edits", "message"), [("dolly", "no walk 'dolly'"), ("zoom,zoom", "zoom is given twice"), ("", "no walk ''")]
)
def test_wrong_edits_are_named(vectors: Callable[..., VectorSet], edits: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy("steer", walks=vectors("walks", dim=DIM), edits=edits)
