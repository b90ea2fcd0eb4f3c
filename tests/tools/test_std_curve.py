"""The share of views that are recognised as their own anchor's."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from std_curve import identity_rate, main


def test_views_near_their_anchors_are_recognised_and_strangers_are_not() -> None:
    rng = np.random.default_rng(0)
    anchors, labels = rng.normal(size=(400, 32)), np.arange(400) % 4
    assert identity_rate(anchors, anchors + 0.01 * rng.normal(size=anchors.shape), labels) == 1
    assert identity_rate(anchors, rng.normal(size=anchors.shape), labels) < 0.05  # 1 in 100 by chance


def test_only_anchors_of_the_class_compete() -> None:
    anchors = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    views = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])
    assert identity_rate(anchors, views, np.array([0, 0, 1])) == 1
    assert identity_rate(anchors, views, np.array([0, 0, 0])) == pytest.approx(2 / 3)


def test_training_without_photographs_is_refused(tmp_path) -> None:
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "out"), "--steps", "4"])
    assert result.exit_code == 2 and "give --data" in result.stderr
    assert not (tmp_path / "out").exists()
