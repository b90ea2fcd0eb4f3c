"""The walks that come with the built-in generator: those that recipes pin, for these weights, and worth their name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import synthgen
from synthgen.draws import draw_truncated_normal
from synthgen.steer.learning import walk_errors
from synthgen.vectors import VectorSet, package_vectors, read_vectors
from synthgen.views import policy_from_recipe
from synthgen.views.options import policy_from_options

# Recipes of steered datasets hold this: another file makes all of them unrenderable, and needs another name.
SHA256 = "f62f167750997b0a0b5ef02db8f441a3b0335bba979b7977d80085a119312a55"


@pytest.fixture(scope="module")
def walks() -> VectorSet:
    return read_vectors(package_vectors("walks", "biggan-deep-32"), kind="walks")


def test_the_file_is_the_one_that_recipes_pin(walks: VectorSet) -> None:
    assert walks.sha256 == SHA256
    assert walks.names == ("zoom", "shift_x", "shift_y", "brightness", "colour")
    assert package_vectors("walks", "biggan-deep-32").stat().st_size < 100_000
    with pytest.raises(ValueError, match="the package has no walks for biggan-deep-128"):
        package_vectors("walks", "biggan-deep-128")
    with pytest.raises(ValueError, match="the package has no walks for /tmp/x"):
        package_vectors("walks", "/tmp/x")


def test_steer_needs_no_file_with_the_built_in_generator(walks: VectorSet) -> None:
    policy = policy_from_options("steer", generator="biggan-deep-32", edits="zoom")
    assert policy.vectors == (walks,)
    assert policy_from_recipe(policy.recipe()) == policy, "nor does who renders its recipe again"


def test_every_walk_is_nearer_to_its_edit_than_standing_still(walks: VectorSet) -> None:
    generator = synthgen.load_generator("biggan-deep-32", device="cpu")
    walks.check_generator(generator)
    latents = draw_truncated_normal(seed=5, stream="anchor", first=0, count=10, dim=128, bound=2.0)
    z, labels = torch.from_numpy(latents.astype(np.float32)), torch.arange(10)
    alphas = torch.tensor([-1.0, 1.0]).repeat(5)[:, None].expand(10, 5)
    matrix = torch.from_numpy(walks.matrix.astype(np.float32))
    with torch.no_grad():
        walked = walk_errors(generator, matrix, z, labels, alphas, edits=walks.names).mean(dim=0)
        still = walk_errors(generator, 0 * matrix, z, labels, alphas, edits=walks.names).mean(dim=0)
    shares = dict(zip(walks.names, (1 - walked / still).tolist(), strict=True))
    assert min(shares.values()) > 0.03, shares
    assert shares["brightness"] > 0.5 and shares["zoom"] > 0.15, shares
