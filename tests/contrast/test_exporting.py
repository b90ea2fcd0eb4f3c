"""Exports load in the library that they are for, strictly, and give the features of the run's own encoder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import contrast
from contrast.cli import main
from contrast.evaluation.scoring import load_encoder
from contrast.run_folder import read_run

SETTINGS = {"steps": 1, "batch_size": 8, "n": 16, "device": "cpu", "quiet": True}


@pytest.fixture(scope="module")
def runs(groups: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    pytest.importorskip("timm")
    names = (
        "convnet-small",
        "resnet18",
        "torchvision:mobilenet_v3_small",
        "torchvision:mnasnet0_5",
        "torchvision:googlenet",
        "timm:resnet10t",
        "timm:vit_tiny_patch16_224",
    )
    made = {name: folder / str(number) for number, name in enumerate(names)}
    for name, run in made.items():
        contrast.train(shards=groups, out=run, encoder=name, precision="float32", **SETTINGS)
    return made


def features_of(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Some images in [0, 1] and what the run makes of them."""
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    encoder, _ = load_encoder(run, read_run(run))
    with torch.inference_mode():
        return images, encoder.eval()(images)


def load_as_told(card: dict[str, Any], file: Path) -> Any:
    """The model that the card's own lines make."""
    names: dict[str, Any] = {"file": str(file)}
    exec("\n".join(card["load"]), names)
    return names["model"]


@pytest.mark.parametrize(
    ("encoder", "format"),
    [
        ("resnet18", "torchvision"),
        ("resnet18", "timm"),
        ("torchvision:mobilenet_v3_small", "torchvision"),
        ("torchvision:mnasnet0_5", "torchvision"),
        ("torchvision:googlenet", "torchvision"),
        ("timm:resnet10t", "timm"),
        ("timm:vit_tiny_patch16_224", "timm"),
        ("convnet-small", "safetensors"),
    ],
)
def test_the_card_loads_the_file_strictly(runs: dict[str, Path], tmp_path: Path, encoder: str, format: str) -> None:
    file = tmp_path / "deep" / "weights"
    exported = contrast.export(runs[encoder], format=format, out=file)
    card = json.loads((tmp_path / "deep" / "weights.json").read_text())
    assert card == json.loads(json.dumps(exported.to_json())) and Path(exported.path) == file
    assert (card["encoder"], card["image_size"], card["steps"]) == (encoder, 16, 1)
    assert any("strict=True" in line for line in card["load"])
    images, expected = features_of(runs[encoder])
    mean, std = (torch.tensor(card[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        features = load_as_told(card, file)((images - mean) / std)
        unscaled = load_as_told(card, file)(images)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    if not encoder.startswith("torchvision:"):  # after one step those here give nearly the same for every image
        assert torch.allclose(unscaled, expected, atol=1e-5) == (format == "safetensors")  # the scaling matters


@pytest.mark.parametrize("encoder", ["convnet-small"])
def test_onnx_gives_the_same_features_for_any_batch(runs: dict[str, Path], tmp_path: Path, encoder: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path / "encoder.onnx"
    contrast.export(runs[encoder], format="onnx", out=file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.onnx", "encoder.onnx.json"]  # weights inside
    card = json.loads((tmp_path / "encoder.onnx.json").read_text())
    assert (card["mean"], card["std"]) == ([0, 0, 0], [1, 1, 1]) and "then (images" not in card["input"]
    model = load_as_told(card, file)
    assert isinstance(model, onnxruntime.InferenceSession)
    images, expected = features_of(runs[encoder])
    for count in (1, 5):
        (features,) = model.run(None, {"images": images[:count].numpy()})
        np.testing.assert_allclose(features, expected[:count].numpy(), rtol=1e-4, atol=1e-5)
    properties = model.get_modelmeta().custom_metadata_map
    assert properties["encoder"] == encoder and properties["image_size"] == "16"


def test_an_export_is_written_whole_or_not_at_all(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "encoder"
    file.write_text("an older one")
    monkeypatch.setattr(os, "replace", lambda source, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        contrast.export(runs["convnet-small"], format="safetensors", out=file)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("encoder", "an older one")]


def test_safetensors_carry_the_card(runs: dict[str, Path], tmp_path: Path) -> None:
    from safetensors import safe_open

    contrast.export(runs["resnet18"], format="timm", out=tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["mean"] == "(0.5, 0.5, 0.5)" and metadata["std"] == "(0.25, 0.25, 0.25)"


@pytest.mark.parametrize(
    ("encoder", "format", "message"),
    [
        ("convnet-small", "torchvision", "encoder convnet-small is no model of torchvision: use --format safetensors"),
        ("convnet-small", "timm", "encoder convnet-small is no model of timm"),
        ("timm:resnet10t", "torchvision", "encoder timm:resnet10t is no model of torchvision"),
        ("torchvision:mobilenet_v3_small", "timm", "encoder torchvision:mobilenet_v3_small is no model of timm"),
        ("torchvision:mnasnet0_5", "safetensors", "encoder torchvision:mnasnet0_5 does not load from tensors alone"),
        ("convnet-small", "tflite", "'tflite' is not one of 'torchvision', 'timm', 'safetensors', 'onnx'"),
    ],
)
def test_formats_that_do_not_hold_an_encoder(
    runs: dict[str, Path], tmp_path: Path, encoder: str, format: str, message: str
) -> None:
    result = CliRunner().invoke(main, ["export", str(runs[encoder]), "--format", format, "--out", str(tmp_path / "x")])
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["export", str(runs["convnet-small"]), "--out", str(tmp_path / "a"), "--format"]
    result = CliRunner().invoke(main, [*command, "safetensors"])
    assert result.exit_code == 0 and "convnet-small after 1 steps, 512 features" in result.output
    printed = CliRunner().invoke(main, [*command, "safetensors", "--json"])
    assert json.loads(printed.stdout) == json.loads((tmp_path / "a.json").read_text())
    for arguments, message in (
        (["export", str(tmp_path), "--format", "onnx", "--out", str(tmp_path / "b")], "is not a run"),
        ([*command[:2], "--format", "onnx", "--out", str(tmp_path)], "is a folder: give the file to write"),
        ([*command[:2], "--format", "onnx", "--out", f"{command[1]}/checkpoint.pt"], "checkpoint.pt is part of a run"),
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2 and message in result.stderr
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = CliRunner().invoke(main, [*command, "onnx"])
    assert result.exit_code == 2 and "onnx is not installed: pip install -e '.[onnx]' in the clone" in result.stderr
