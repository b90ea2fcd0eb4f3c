"""The gate on photographs of almost nothing: it runs through, goes on where it was, and says no when it has to."""

from __future__ import annotations

import json
from pathlib import Path

import gate
import numpy as np
import pytest
from click.testing import CliRunner

from shards.cifar10 import SHA256, sha256_of


def test_the_order_is_asked_of_every_seed() -> None:
    right = {"supcon": [60.0, 61.0], "simclr": [50.0, 49.0], "no-jitter": [42.0, 43.0], "random": [33.0, 34.0]}
    assert gate.find_disorder(right) == []
    assert gate.find_disorder({**right, "simclr": [50.0, 42.0]}) == ["seed 1: simclr 42.0, no-jitter 43.0"]
    assert gate.find_disorder({**right, "random": [42.0, 34.0]}) == ["seed 0: no-jitter 42.0, random 42.0"]
    lines = gate.format_short({"knn": right, "wrong": ["seed 1: x"], "order": list(gate.ORDER)})
    assert lines[0].split()[-5:] == ["seed", "0", "seed", "1", "mean"] and lines[-1] == "not in order: seed 1: x"


def test_figures_may_be_off_by_their_margin_and_no_more() -> None:
    assert gate.find_wrong({"knn": 83.8, "linear": 85.0, "loss": 5.15}) == []
    assert gate.find_wrong({"knn": 84.1, "linear": 85.0, "loss": 5.15}) == ["knn"]  # too good is wrong, too
    assert gate.find_wrong({"knn": float("nan"), "linear": 70.0, "loss": 5.3}) == ["knn", "linear", "loss"]
    runs = {"tar": {"figures": {"knn": 83.0, "linear": 80.0, "loss": 5.18}, "wrong": ["linear"]}}
    lines = gate.format_full({"expected": gate.EXPECTED, "readers": runs})
    assert "83.2 ± 0.6" in lines[1] and "80.00 !" in lines[2]


@pytest.fixture
def tiny_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Arrays like CIFAR-10's, in which a class is a stripe pattern."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 200), ("test", 60)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        waves = np.sin(np.arange(32) * (0.3 + 0.25 * labels[:, None]))[:, None, :, None]
        pixels = 128 + 80 * waves + rng.normal(0, 20, (count, 32, 32, 3))
        for kind, array in (("images", pixels.clip(0, 255).astype(np.uint8)), ("labels", labels)):
            np.save(folder / f"{split}-{kind}.npy", array)
            monkeypatch.setitem(SHA256, f"{split}-{kind}", sha256_of(array))
    monkeypatch.setattr(gate.contrast.data, "cifar10", lambda *, out: None)
    return folder


def test_it_runs_through_and_uses_again_what_is_there(tiny_cifar10: Path, tmp_path: Path) -> None:
    sizes = ["--short", "--n", "150", "--steps", "2", "--seeds", "1", "--device", "cpu"]
    arguments = [*sizes, "--data", str(tiny_cifar10), "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(gate.main, [*arguments, "--json"])
    result = json.loads((tmp_path / "out" / "short.json").read_text())
    assert json.loads(first.stdout) == result
    assert first.exit_code == (0 if result["passed"] else 1), first.output
    assert result["passed"] == (not result["wrong"])
    assert [len(result["knn"][method]) for method in gate.ORDER] == [1, 1, 1, 1]
    weights = {path: path.read_bytes() for path in (tmp_path / "out").rglob("checkpoint.pt")}
    assert len(weights) == 3

    again = CliRunner().invoke(gate.main, arguments)
    assert again.exit_code == first.exit_code and again.stderr.count("nothing to do") == 3
    assert {path: path.read_bytes() for path in weights} == weights
    assert json.loads((tmp_path / "out" / "short.json").read_text())["knn"] == result["knn"]
    assert ("FAILED" in again.stdout) == (again.exit_code == 1)


def test_an_unknown_reader_is_refused_before_anything_is_packed(tiny_cifar10: Path, tmp_path: Path) -> None:
    command = [f"--data={tiny_cifar10}", f"--out={tmp_path / 'gate'}", "--readers=tar,tape"]
    run = CliRunner().invoke(gate.main, command)
    assert run.exit_code == 2 and "unknown reader 'tape'" in run.stderr and not (tmp_path / "gate").exists()


def test_other_versions_and_devices_train_anew() -> None:
    machine = {"cpu": "one", "gpu": None, "versions": {"torch": "2.8.0", "torchvision": "0.23.0"}}
    known = gate.hash_run(machine)
    assert gate.hash_run({**machine, "date": "later", "load_before": 3.0}) == known
    changes = (
        {"cpu": "two"},
        {"gpu": "a GPU"},
        {"versions": {**machine["versions"], "torch": "2.9.0"}},
        {"versions": {**machine["versions"], "torchvision": "0.24.0"}},
    )
    assert len({known, *(gate.hash_run({**machine, **change}) for change in changes)}) == 5


def test_photographs_are_packed_anew_for_other_versions_alone(tiny_cifar10: Path, tmp_path: Path) -> None:
    versions = {"numpy": "2.0", "pillow": "12.0", "torch": "2.8.0"}
    parts = gate.pack(tiny_cifar10, tmp_path / "out", versions=versions)
    assert [len(gate.shards.GroupDataset(parts[split])) for split in ("train", "test")] == [200, 60]
    assert gate.pack(tiny_cifar10, tmp_path / "out", versions={**versions, "torch": "2.9.0"}) == parts
    others = gate.pack(tiny_cifar10, tmp_path / "out", versions={**versions, "pillow": "13.0"})
    assert not set(others.values()) & set(parts.values())


def test_the_file_for_ffcv_is_there_before_anything_is_trained(
    tiny_cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ffcv")
    parts = gate.pack(tiny_cifar10, tmp_path / "out", versions={"numpy": "2.0", "pillow": "12.0"})
    beton = parts["train"] / "groups.beton"
    train, found = gate.contrast.train, []

    def train_shortly(*, epochs: int, **settings: object) -> object:
        found.append(beton.stat().st_mtime_ns if beton.exists() else None)
        return train(steps=2, **settings)

    monkeypatch.setattr(gate.contrast, "train", train_shortly)
    monkeypatch.setattr(gate, "RECIPE", {**gate.SHORT_RECIPE, "head_dim": 16})
    for readers in (("tar",), ("tar", "ffcv"), ("ffcv",)):
        result = gate.run_full(parts, tmp_path / "full", readers=readers, device="cpu")
        assert tuple(result["readers"]) == readers
    assert found[0] is None and found[1] is not None
    assert len(found) == 4 and len(set(found[1:])) == 1  # converted once
