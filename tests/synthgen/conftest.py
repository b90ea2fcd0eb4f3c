"""A small random BigGAN-deep with working statistics, on disk in both layouts that the adapter reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_pretrained_biggan import BigGAN

import synthgen
from shards.manifest import Manifest
from synthgen.vectors import VectorSet, write_vectors
from tests.synthgen import small_renders

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from tiny_generator import make_network, write_tiny_generator

CLASS_NAMES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_published_layout(folder: Path, network: BigGAN) -> Path:
    """pytorch_model.bin and config.json, as the published package lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(network.config.to_dict()))
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the weights of a small biggan-deep-32; not to be written to."""
    return write_tiny_generator(tmp_path_factory.mktemp("weights"), class_names=CLASS_NAMES)


@pytest.fixture
def network_maker() -> Callable[..., BigGAN]:
    """`make_network`, for tests that want another one."""
    return make_network


@pytest.fixture
def published_layout() -> Callable[[Path, BigGAN], Path]:
    """`write_published_layout`."""
    return write_published_layout


@pytest.fixture
def package_layout() -> Callable[[Path, BigGAN], Path]:
    """`write_tiny_generator`, for a network of one's own."""
    return partial(write_tiny_generator, class_names=CLASS_NAMES)


WALK_NAMES = ("zoom", "shift_x", "rotate")


class VectorMaker:
    """Files of fixed vectors, walks along axes and directions of several coordinates, for a generator of any size."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, dim: int) -> Path:
        return self.folder / f"{kind}-{dim}.safetensors"

    def __call__(
        self, kind: str, *, dim: int = 64, generator: str = "biggan-deep-32", weights_sha256: str = "0" * 64
    ) -> VectorSet:
        names = WALK_NAMES if kind == "walks" else ("sefa0", "sefa1")
        matrix = np.zeros((len(names), dim), np.float32)
        for row in range(len(names)):
            matrix[row, row : row + 4] = [0.5, -0.5, 0.5, 0.5]
        owner = SimpleNamespace(name=generator, weights_sha256=weights_sha256, latent_dim=dim)
        return write_vectors(
            self.path(kind, dim), kind=kind, names=names, matrix=matrix, generator=owner, settings={"seed": 0}
        )


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> VectorMaker:
    """`VectorMaker`: makes small files of walks or directions."""
    return VectorMaker(tmp_path_factory.mktemp("vectors"))


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Writes NAME.py with a source into the current folder, a temporary one; nothing of it stays imported."""
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)

    yield write
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(tmp_path) in str(getattr(module, "__file__", None)):
            del sys.modules[name]


@pytest.fixture
def documented_block() -> Callable[[str], str]:
    """Gives the Python block of docs/bring-your-own-generator.md that holds a text."""
    page = Path(__file__).parents[2] / "docs" / "bring-your-own-generator.md"
    blocks = [block.split("```")[0] for block in page.read_text(encoding="utf-8").split("```python\n")[1:]]
    return lambda text: next(block for block in blocks if text in block)


@pytest.fixture(scope="session")
def whole(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of `small_renders.run`, where nothing went wrong."""
    folder = tmp_path_factory.mktemp("whole") / "d"
    assert small_renders.run(folder, tiny_weights).exit_code == 0
    return folder


@pytest.fixture
def render(tiny_weights: Path) -> Iterator[object]:
    """`synthgen.render` with the tiny generator, in shards of 100 and batches of 20."""

    def run(n: int | str, out: Path, **options: object) -> Manifest:
        settings = {"weights": tiny_weights, "shard_size": 100, "batch_size": 20, "dtype": "float32", "devices": "cpu"}
        return synthgen.render(n=n, out=out, **({"quiet": True} | settings | options))

    threads = torch.get_num_threads()
    yield run
    assert torch.get_num_threads() == threads, "the process's own setting is put back"
