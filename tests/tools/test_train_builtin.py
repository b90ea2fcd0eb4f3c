"""Training the built-in generator: slots that go on from each other, and files that the package loads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import train_builtin
from click.testing import CliRunner
from gan_training import GanTraining, TrainingConfig

from synthgen import load_generator


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    np.save(folder / "train-images.npy", rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "train-labels.npy", np.arange(40, dtype=np.uint8) % 10)
    return folder


def run(data, out, *more: str):
    options = ["--preset", "cpu", "--batch-size", "4", "--device", "cpu", "--score-samples", "20"]
    arguments = ["--data", str(data), "--out", str(out), *options, *more]
    return CliRunner().invoke(train_builtin.main, arguments)


def test_slots_go_on_from_each_other_and_the_package_loads_the_export(data, tmp_path) -> None:
    out, weights = tmp_path / "run", tmp_path / "weights"
    first = run(data, out, "--steps", "3", "--minutes", "0")
    assert first.exit_code == 0, first.output
    assert torch.load(out / "state.pt", weights_only=True)["step"] == 0

    second = run(data, out, "--steps", "3")
    assert second.exit_code == 0, second.output
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["step"] == 3
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3 and np.isfinite(rows[-1]["loss_d"] + rows[-1]["loss_g"])
    assert rows[-1]["images_per_second"] > 0 and 0 <= rows[-1]["label_agreement"] <= 1
    assert (out / "samples-000003.png").exists()

    other = run(data, out, "--steps", "4")
    assert other.exit_code == 2
    assert "other settings" in other.stderr

    assert "the same command goes on" in first.stderr and not weights.exists()
    exported = run(data, out, "--steps", "3", "--export", str(weights), "--samples-per-row", "10")
    assert exported.exit_code == 0, exported.output
    again = torch.load(out / "state.pt", weights_only=True)
    assert all(torch.equal(again["average"][name], tensor) for name, tensor in state["average"].items())
    generator = load_generator("biggan-deep-32", weights=weights, truncation=0.5, device="cpu", dtype="float32")
    assert generator.class_names[3] == "cat"
    pixels = generator.render(torch.randn(10, 128) * 0.5, torch.arange(10))
    assert pixels.shape == (10, 32, 32, 3)
    assert pixels.float().std() > 1  # no constant images
    card = json.loads((weights / "biggan-deep-32.json").read_text())
    assert card["training"]["steps"] == 3 and card["training"]["batch_size"] == 4


def test_the_average_follows_the_generator(data) -> None:
    settings = {**train_builtin.PRESETS["cpu"], "batch_size": 4, "steps": 100}
    images = torch.from_numpy(np.load(data / "train-images.npy"))
    gan = GanTraining(TrainingConfig(**settings), images, torch.arange(40) % 10, torch.device("cpu"))
    before = [parameter.clone() for parameter in gan.average.parameters()]
    gan.schedule()
    gan.update()
    weight = gan.average_weight.item()
    assert 0 < weight < 1
    pairs = zip(before, gan.average.parameters(), gan.generator.parameters(), strict=True)
    moved = 0
    for old, average, current in pairs:
        torch.testing.assert_close(average, old + weight * (current - old), rtol=1e-4, atol=1e-6)
        moved += not torch.equal(old, current)
    assert moved > 50


def test_the_learning_rate_falls_to_zero_at_the_end(data) -> None:
    settings = {**train_builtin.PRESETS["cpu"], "batch_size": 4, "steps": 10, "decay_from": 0.5}
    config = TrainingConfig(**settings)
    gan = GanTraining(config, torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.zeros(4).long(), torch.device("cpu"))
    rates = []
    for _ in range(10):
        gan.schedule()
        rates.append(gan.generator_optimiser.param_groups[0]["lr"].item())
    assert rates[:6] == pytest.approx([config.generator_learning_rate] * 6)
    assert rates[6:] == pytest.approx([config.generator_learning_rate * part for part in (0.8, 0.6, 0.4, 0.2)])
