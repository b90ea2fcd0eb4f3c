"""The benchmark of training: contestants train the same, and what it prints fits together."""

from __future__ import annotations

import json
import sys

import bench_train
import pytest
from click.testing import CliRunner

OPTIONS = ["--groups", "32", "--batch-size", "8", "--steps", "2", "--repeats", "1", "--workers", "1", "--device", "cpu"]
# lightly's and PIL's own use of what newer versions deprecate; its workers are left to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("has_lightly", [True, False])
def test_figures_are_positive_and_fit_together(has_lightly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if has_lightly:
        pytest.importorskip("lightly")
    else:
        monkeypatch.setitem(sys.modules, "lightly", None)
    run = CliRunner().invoke(bench_train.main, [*OPTIONS, "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    rates = result["views_per_second"]
    assert rates["ours"] > 0 and rates["resident"] > 0
    assert result["step_over_resident"] == pytest.approx(rates["ours"] / rates["resident"])
    assert 0 <= result["data_wait_share"] <= 1
    assert (result["groups"], result["size"], result["config"]["steps"]) == (32, 32, 2)
    if has_lightly:
        assert result["step_over_lightly"] == pytest.approx(rates["ours"] / rates["lightly"])
    else:
        assert result["step_over_lightly"] is None and "'.[bench]'" in result["notes"]["lightly"]
    assert any("waiting for data" in line for line in bench_train.format_report(result))


def test_bad_input_is_one_line() -> None:
    for arguments, message in ((["--encoder", "vgg"], "unknown encoder 'vgg'"), (["--shards", "nowhere"], "no folder")):
        run = CliRunner().invoke(bench_train.main, [*OPTIONS, *arguments])
        assert run.exit_code == 2 and message in run.stderr and len(run.stderr.strip().splitlines()) == 1
