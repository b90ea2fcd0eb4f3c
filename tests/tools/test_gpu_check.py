"""The check of a device, run on the CPU: it passes where it should, and says which comparison failed where not."""

from __future__ import annotations

import json
from pathlib import Path

import gpu_check
import pytest
import torch
from click.testing import CliRunner
from generator_choice import write_random_weights

from synthgen.adapters.biggan import BigGANGenerator
from synthgen.devices import find_compiler

QUICK = ["--device=cpu", "--groups=60", "--sample=10", "--cpu-groups=3", "--images=40", "--naive-images=32"]
PLAIN = [*QUICK, "--no-compile"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("generator_choice.find_weights", lambda name: None)  # then the small network takes its place
        return write_random_weights("biggan-deep-32", tmp_path_factory.mktemp("weights"))


def test_a_sound_device(weights: Path) -> None:
    run = CliRunner().invoke(gpu_check.main, [*PLAIN, "--repeats=1", f"--weights={weights}", "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert result["ok"] and set(result["comparisons"]) == {"again", "float32", "cpu", "float32, cpu"}
    found = {name: report["sameness"] for name, report in result["comparisons"].items()}
    assert all(found[name]["identical"] for name in ("again", "cpu", "float32, cpu")), "the CPU against itself"
    own = result["comparisons"]["again"]["dtype"]
    assert found["float32"]["identical"] == (own == "float32") and found["float32"]["close"]
    assert result["speed"]["images_per_second"] > 0 and result["environment"]["torch"] == torch.__version__
    lines = gpu_check.format_report(result)
    assert lines[1].split()[:2] == ["again", "10/10"] and any("end to end" in line for line in lines)


@pytest.mark.skipif(find_compiler(torch.device("cpu")) is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_passes_are_compiled_anew(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from torch._dynamo.utils import counters

    before = counters["stats"]["unique_graphs"]
    reports, not_compiled = gpu_check.check_device(
        "biggan-deep-32", weights, tmp_path, device="cpu", groups=60, cpu_groups=3, sample=10, compile=True
    )
    assert set(reports) == {"again", "float32", "cpu", "float32, cpu", "compiled", "plain"} and not_compiled is None
    assert reports["compiled"].sameness.identical and reports["compiled"].compiled
    assert counters["stats"]["unique_graphs"] - before == 2, "once to render, once to render again"
    assert reports["plain"].ok and not reports["plain"].compiled
    assert "compiled: L0 plan: same; L1 bytes: identical in all 10 groups" in capsys.readouterr().err


def test_what_cannot_be_compiled_costs_no_other_comparison(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthgen.adapters.compiling.find_compiler", lambda device: None)
    monkeypatch.setattr(gpu_check, "run_benchmark", lambda *rest, **named: {})
    monkeypatch.setattr(gpu_check, "format_speed", lambda speed: [])
    run = CliRunner().invoke(gpu_check.main, [*QUICK, f"--weights={weights}", "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert set(result["comparisons"]) == {"again", "float32", "cpu", "float32, cpu"}
    assert "compiler" in result["not_compiled"] and result["not_compiled"] in "\n".join(gpu_check.format_report(result))


def test_a_device_that_never_gives_the_same_twice(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = BigGANGenerator.render

    def render(self: BigGANGenerator, *rest: object, **named: object) -> torch.Tensor:
        pixels = real(self, *rest, **named)  # type: ignore[arg-type]
        return pixels ^ torch.randint_like(pixels, 2)  # another last bit every time

    monkeypatch.setattr(BigGANGenerator, "render", render)
    monkeypatch.setattr(gpu_check, "run_benchmark", lambda *rest, **named: {})
    monkeypatch.setattr(gpu_check, "format_speed", lambda speed: [])
    run = CliRunner().invoke(gpu_check.main, [*PLAIN, f"--weights={weights}", "--sample=60", "--json"])
    assert run.exit_code == 1, run.output
    assert "renders of cpu cannot be relied on (again): " in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--generator=dreams"], "no generator 'dreams'"),
        (["--device=abacus"], "device 'abacus'"),
        (["--weights=x", "--random-weights"], "exclude each other"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str) -> None:
    run = CliRunner().invoke(gpu_check.main, options)
    assert run.exit_code == 2 and message in run.stderr and run.stderr.count("\n") == 1
