"""The benchmark of compiling: its figures fit together, and compiled pixels are those of the eager passes, nearly."""

from __future__ import annotations

import json

import bench_compile
import pytest
import torch
from click.testing import CliRunner

from synthgen.devices import find_compiler

QUICK = ["--images", "20", "--batch-size", "10", "--repeats", "1", "--device", "cpu", "--dtype", "float32"]


@pytest.mark.skipif(find_compiler(torch.device("cpu")) is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_figures_fit_together_and_pixels_are_close() -> None:
    run = CliRunner().invoke(bench_compile.main, [*QUICK, "--random-weights", "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    eager, compiled = result["forms"]["eager"], result["forms"]["compiled"]
    assert set(result["forms"]) == {"eager", "compiled"}, "graphs need a GPU"
    assert (eager["over_eager"], eager["levels_apart_most"]) == (1, 0)
    assert compiled["over_eager"] == pytest.approx(compiled["images_per_second"] / eager["images_per_second"])
    assert compiled["levels_apart_most"] <= 1, "float32 sums in another order"
    lines = bench_compile.format_report({**result, "weights": "random"})
    assert any(line.split()[:1] == ["compiled"] for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--generator", "dreams"], "no generator 'dreams'"),
        (["--weights", "nowhere", "--random-weights"], "exclude each other"),
        (["--random-weights", "--device", "abacus"], "device 'abacus'"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str) -> None:
    run = CliRunner().invoke(bench_compile.main, options)
    assert run.exit_code == 2
    assert message in run.stderr and run.stderr.count("\n") == 1 and run.stdout == ""
