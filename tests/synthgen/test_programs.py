"""A generator in a .pt2 file: its signature says what it is, and its images are those of the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import synthgen
from shards.dataset import GroupDataset
from synthgen.adapters.own_generator import probe_generator
from synthgen.adapters.program_export import export_program
from synthgen.adapters.weight_files import file_sha256
from synthgen.cli import main

CPU = torch.device("cpu")
LATENTS, LABELS = torch.linspace(-1, 1, 5 * 6).reshape(5, 6), torch.arange(5)


class Network(nn.Module):
    """Latents of six to images of eight pixels, with three classes; a constant is made inside its graph."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.linear, self.norm = nn.Embedding(10, 6), nn.Linear(6, 3 * 8 * 8), nn.BatchNorm2d(3)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        x = self.linear(latents + self.embed(labels)).view(-1, 3, 8, 8)
        return torch.tanh(self.norm(x) + torch.linspace(-1, 1, 8, device=x.device))


class OneHot(Network):
    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return super().forward(latents, labels.argmax(1))


class Unlabelled(Network):
    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents, torch.zeros(latents.shape[0], dtype=torch.int64))


class Convolutional(Unlabelled):
    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents[:, :, 0, 0])


def save(network: nn.Module, path: Path, *inputs: Tensor, dynamic: bool = True, **extra: Any) -> Path:
    """A program as its owner would save it, without our helper."""
    batch = torch.export.Dim("batch", min=1, max=1000)
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    with torch.no_grad():
        program = torch.export.export(network, inputs, dynamic_shapes=shapes)
    torch.export.save(program, path, extra_files={"synthgen.json": json.dumps(extra)} if extra else None)
    return path


def load(path: Path | str, **options: Any) -> Any:
    return synthgen.load_generator(str(path), **({"device": "cpu"} | options))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled program; not to be written to."""
    path = tmp_path_factory.mktemp("program") / "cats.pt2"
    return export_program(Network().eval(), path, latent_dim=6, num_classes=10)
