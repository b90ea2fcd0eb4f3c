"""The demo without photographs at hand: it still ends with a table, and says what the scores were taken on."""

from __future__ import annotations

import json

import demo
import pytest
from click.testing import CliRunner

KEYS = {
    "groups", "render_groups_per_second", "train_views_per_second", "knn_pixels", "knn_random", "knn_trained",
    "linear_pixels", "linear_random", "linear_trained", "evaluated_on", "seconds_total",
}  # fmt: skip


def test_it_runs_through_and_uses_again_what_is_there(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "fetch_photographs", lambda folder: False)
    monkeypatch.setattr(demo, "HELD_OUT", 100)
    sizes = ["--n", "200", "--steps", "3", "--batch-size", "32", "--num-train", "100"]
    folders = ["--datasets", str(tmp_path / "datasets"), "--out", str(tmp_path / "run")]

    first = CliRunner().invoke(demo.main, sizes + folders, catch_exceptions=False)
    assert first.exit_code == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result.keys() >= KEYS
    assert result["groups"] == 200
    assert "60 generated images" in result["evaluated_on"]  # the last fifth, all of it beyond the groups trained on
    assert result["render_groups_per_second"] > 0 and result["train_views_per_second"] > 0
    assert "trained encoder" in first.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert "data:image/png;base64," in page
    weights = (tmp_path / "run" / "seed0" / "checkpoint.pt").read_bytes()

    second = CliRunner().invoke(demo.main, sizes + folders, catch_exceptions=False)
    assert second.exit_code == 0
    assert second.stderr.count("used as it is") == 2  # the dataset and the encoder
    assert (tmp_path / "run" / "seed0" / "checkpoint.pt").read_bytes() == weights
    again = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {key: again[key] for key in KEYS if "_per_" not in key} == {
        key: result[key] for key in KEYS if "_per_" not in key
    }


def test_no_source_of_photographs_is_a_line_and_not_an_end(tmp_path, monkeypatch, capsys) -> None:
    def refuse(*, out) -> None:
        raise ValueError("neither source can be reached")

    monkeypatch.setattr(demo.contrast.data, "cifar10", refuse)
    assert demo.fetch_photographs(tmp_path) is False
    assert "neither source can be reached" in capsys.readouterr().err
