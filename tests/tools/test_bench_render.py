"""The benchmark of rendering: what it prints fits together, and its naive loop makes the images that ours makes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import bench_render
import pytest
import torch
from click.testing import CliRunner
from generator_choice import write_random_weights
from naive_render import load_published_module

import synthgen

QUICK = ["--images", "40", "--naive-images", "32", "--batch-size", "10", "--repeats", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_weights("biggan-deep-32", tmp_path_factory.mktemp("weights"))


def test_figures_are_positive_and_fit_together(random_weights: Path) -> None:
    run = CliRunner().invoke(bench_render.main, [*QUICK, "--weights", str(random_weights), "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert result.pop("compiled") is False
    numbers = {key: value for key, value in result.items() if isinstance(value, int | float)}
    numbers |= {f"busy {stage}": share for stage, share in result["busy_shares"].items()}
    assert all(math.isfinite(value) and value > 0 for value in numbers.values()), numbers
    rate = result["images_per_second"]
    assert result["end_to_end_over_bare"] == pytest.approx(rate / result["bare_images_per_second"])
    assert result["end_to_end_over_naive"] == pytest.approx(rate / result["naive_images_per_second"])
    arithmetic = rate * result["flops_per_image"]
    assert result["end_to_end_share_of_limit"] == pytest.approx(arithmetic / result["limit_flops_per_second"])
    assert set(result["busy_shares"]) == {"draw", "generate", "encode", "write"}
    assert (result["images"], result["naive_images"], result["batch_size"], result["repeats"]) == (40, 32, 10, 1)
    assert torch.__version__.startswith(result["machine"]["versions"]["torch"])


def test_the_table_says_the_same_and_random_weights_need_no_files() -> None:
    run = CliRunner().invoke(bench_render.main, [*QUICK, "--random-weights"])
    assert run.exit_code == 0, run.output
    assert all(title in run.stdout for title in ("bare forward", "end to end", "naive loop", "MFLOP", "random weights"))
    assert "rendering: " in run.stderr and "rendering: " not in run.stdout


def test_the_naive_loop_makes_our_images(random_weights: Path) -> None:
    ours = synthgen.load_generator(weights=random_weights, device="cpu", dtype="float32")
    published = load_published_module("biggan-deep-32", random_weights)
    assert sum(hasattr(module, "weight_orig") for module in published.modules()) > 40, "spectral norms are back"
    torch.manual_seed(0)
    latents, labels = torch.randn(3, ours.latent_dim), torch.tensor([0, 3, 9])
    images = published(latents, torch.eye(ours.num_classes)[labels], 1.0)
    assert images.std() > 0.01
    torch.testing.assert_close(ours.sample(latents, labels), images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bogus"], "No such option"),
        (["--images", "many"], "not a count"),
        (["--generator", "dreams"], "no generator 'dreams'"),
        (["--weights", "nowhere", "--random-weights"], "exclude each other"),
        (["--weights", "nowhere"], "no weights of biggan-deep-32 in nowhere"),
        (["--random-weights", "--device", "abacus"], "device 'abacus'"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str) -> None:
    run = CliRunner().invoke(bench_render.main, options)
    assert run.exit_code == 2
    assert message in run.stderr and run.stderr.count("\n") == 1 and run.stdout == ""
