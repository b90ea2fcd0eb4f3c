"""The benchmark of augmentation: contestants do the same work, and what it prints fits together."""

from __future__ import annotations

import json

import bench_augment
import pytest
import torch
from click.testing import CliRunner

from contrast.augment import AugmentConfig, compile_operations

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_augment, "compile_operations", lambda: compile_operations(backend="eager"))


@pytest.mark.parametrize("has_kornia", [True, False])
def test_figures_are_positive_and_fit_together(has_kornia: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if has_kornia:
        pytest.importorskip("kornia")
    else:
        monkeypatch.setitem(__import__("sys").modules, "kornia.augmentation", None)
    options = ["--size", "16", "--batch-size", "8", "--seconds", "0.01", "--repeats", "1", "--device", "cpu", "--json"]
    run = CliRunner().invoke(bench_augment.main, [*options, "--augment", "blur=0.5,solarize=0.5"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    rates = result["images_per_second"]
    assert set(rates) == {"ours", "compiled", "kornia", "torchvision"}
    assert all(rate is None or rate > 0 for rate in rates.values())
    assert result["ours_over_torchvision"] == pytest.approx(rates["ours"] / rates["torchvision"])
    assert result["augment"]["blur"] == 0.5
    if has_kornia:
        assert result["ours_over_kornia"] == pytest.approx(rates["ours"] / rates["kornia"])
    else:
        assert result["ours_over_kornia"] is None and "'.[bench]'" in result["notes"]["kornia"]
    assert any("ours over torchvision" in line for line in bench_augment.format_report(result))


def test_all_contestants_do_the_same_when_nothing_is_random() -> None:
    pytest.importorskip("kornia")
    config = AugmentConfig(crop_scale=(1, 1), crop_ratio=(1, 1), flip=1.0, jitter=0.0, gray=1.0, solarize=1.0)
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = bench_augment.ours(config, 16)(pixels, 0)
    for build in (bench_augment.kornia, bench_augment.torchvision):
        torch.testing.assert_close(build(config, 16)(pixels, 0), expected, atol=2e-3, rtol=0)


def test_bad_input_is_one_line() -> None:
    run = CliRunner().invoke(bench_augment.main, ["--augment", "blurr=1"])
    assert run.exit_code == 2 and "unknown 'blurr'" in run.stderr and len(run.stderr.strip().splitlines()) == 1
