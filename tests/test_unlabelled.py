"""A generator without classes, from its first latent to a trained encoder: every room takes groups without labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import contrast.cli
import shards.cli
import synthgen.cli
from synthgen.adapters.program_export import export_program


class Blobs(nn.Module):
    """Latents of four to smooth images of sixteen pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3 * 4 * 4)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        images = self.linear(latents).view(-1, 3, 4, 4)
        return nn.functional.interpolate(images, size=(16, 16), mode="bilinear").tanh()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 unlabelled groups in two shards, rendered by the command."""
    folder = tmp_path_factory.mktemp("unlabelled")
    program = export_program(Blobs().eval(), folder / "blobs.pt2", latent_dim=4)
    options = ["--n=64", "--shard-size=40", "--std=0.5", "--devices=cpu", "--quiet"]
    command = ["render", *options, f"--out={folder / 'd'}", f"--generator={program}"]
    result = CliRunner().invoke(synthgen.cli.main, command)
    assert result.exit_code == 0, result.output
    return folder / "d"


def test_its_groups_are_told_checked_and_drawn(dataset: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    told = json.loads(run(shards.cli.main, ["info", str(dataset), "--json"]).stdout)
    assert told["num_classes"] == 0 and told["recipe"]["classes"] == [] and told["groups"] == 64
    assert "unlabelled" in run(shards.cli.main, ["info", str(dataset)]).stdout
    assert run(shards.cli.main, ["verify", str(dataset)]).exit_code == 0
    assert run(shards.cli.main, ["preview", str(dataset), f"--out={tmp_path / 's.png'}"]).exit_code == 0
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_simclr_learns_from_them_and_supcon_refuses(dataset: Path, tmp_path: Path) -> None:
    options = ["--shards", str(dataset), "--steps=2", "--batch-size=16", "--device=cpu", "--threads=1", "--json"]
    refused = CliRunner().invoke(
        contrast.cli.main, ["train", *options, f"--out={tmp_path / 'no'}", "--objective=supcon"]
    )
    assert refused.exit_code == 2 and not (tmp_path / "no").exists()
    assert refused.stderr == (
        "Error: objective supcon needs class labels and these groups have none: use --objective simclr\n"
    )
    result = CliRunner().invoke(contrast.cli.main, ["train", *options, f"--out={tmp_path / 'run'}"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 2


def test_classes_and_their_weights_are_refused(dataset: Path, tmp_path: Path) -> None:
    program = dataset.parent / "blobs.pt2"
    for option in ("--classes=0", "--class-weights=0:3"):
        command = ["render", "--n=4", f"--out={tmp_path / 'd'}", f"--generator={program}", "--devices=cpu", option]
        result = CliRunner().invoke(synthgen.cli.main, command)
        assert result.exit_code == 2 and "this generator has no classes: omit --class" in result.stderr
        assert len(result.stderr.splitlines()) == 1
