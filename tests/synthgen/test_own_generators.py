"""A generator made by a user's function: it renders as any other, and what is wrong with it is one line, in time."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import synthgen
from shards.dataset import GroupDataset
from shards.manifest import load_manifest
from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.weight_files import file_sha256
from synthgen.cli import main
from synthgen.plan import draw_groups
from tests.synthgen.own_modules import OWN_GENERATOR

CPU = torch.device("cpu")
Module = Callable[[str, str], None]


def test_untrained_weights_as_documented(
    write_module: Module, documented_block: Callable[[str], str], tmp_path: Path
) -> None:
    write_module("my_generator", documented_block("class Generator:"))
    exec(documented_block('save_file(state, "weights.safetensors")'), {})
    command = ["render", "--n=4", "--out=d", "--generator=my_generator:make", "--weights=weights.safetensors"]
    assert CliRunner().invoke(main, [*command, "--devices=cpu", "--quiet"]).exit_code == 0


def documented_weights(path: Path) -> None:
    torch.manual_seed(0)
    layers = {"0": torch.nn.Linear(64, 8192), "3": torch.nn.ConvTranspose2d(128, 64, 4, 2, 1)}
    layers["5"] = torch.nn.ConvTranspose2d(64, 3, 4, 2, 1)
    save_file({f"{name}.{key}": t for name, layer in layers.items() for key, t in layer.state_dict().items()}, path)


def test_the_documented_function_renders_the_pixels_of_its_network(
    write_module: Module, documented_block: Callable[[str], str], tmp_path: Path
) -> None:
    block = documented_block("class Generator:")
    assert len([line for line in block.splitlines() if line.strip()]) <= 20, "the docs promise a small one"
    write_module("my_generator", block)
    documented_weights(tmp_path / "weights.safetensors")
    command = ["render", "--n=70", "--out=d", "--generator=my_generator:make", "--weights=weights.safetensors"]
    result = CliRunner().invoke(main, [*command, "--format=png", "--devices=cpu", "--quiet"])
    assert result.exit_code == 0, result.output

    recipe = load_manifest(tmp_path / "d").recipe
    assert recipe.source["generator"] == "my_generator:make" and recipe.classes == ()
    assert (
        recipe.source["weights_sha256"]
        == hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
        == file_sha256(tmp_path / "weights.safetensors")
    )
    network = sys.modules["my_generator"].Generator(tmp_path / "weights.safetensors", CPU).network
    draws = draw_groups(recipe, latent_dim=64, first=0, count=50)
    with torch.inference_mode():
        expected = [to_pixels(network(torch.from_numpy(latents))).numpy() for latents in draws.latents]
    images, labels = GroupDataset(tmp_path / "d").batch(range(50))
    assert (labels == -1).all()
    assert np.abs(images.astype(int) - np.stack(expected, axis=1)).max() <= 1  # sums of another number of threads

    names: dict[str, object] = {}
    for file in ("mine.pt2", "plain.pt2"):  # what the page says of the same network as a file
        exec(documented_block(f'"{file}"'), names)
        as_file = [
            "render",
            "--n=70",
            f"--out={file}-d",
            f"--generator={file}",
            "--format=png",
            "--devices=cpu",
            "--quiet",
        ]
        assert CliRunner().invoke(main, as_file).exit_code == 0
        theirs, _ = GroupDataset(tmp_path / f"{file}-d").batch(range(50))
        assert np.abs(images.astype(int) - theirs).max() <= 1

    again = CliRunner().invoke(main, [*command, "--format=png", "--devices=cpu", "--dtype=bfloat16", "--quiet"])
    assert again.exit_code == 2 and "my_generator:make takes no dtype" in again.stderr
    documented_weights(tmp_path / "weights.safetensors")
    assert CliRunner().invoke(main, [*command, "--format=png", "--devices=cpu", "--quiet"]).exit_code == 0
    save_file({"0.bias": torch.zeros(1)}, tmp_path / "weights.safetensors")
    other = CliRunner().invoke(main, [*command, "--format=png", "--devices=cpu", "--quiet"])
    assert other.exit_code == 2 and other.stderr.startswith("Error: my_generator:make failed (RuntimeError")
    assert len(other.stderr.splitlines()) == 1


def test_a_function_gets_what_it_names(write_module: Module) -> None:
    write_module("givenmodel", OWN_GENERATOR)
    generator: Any = synthgen.load_generator("givenmodel:make", truncation=0.5, device="cpu", dtype="bfloat16")
    assert generator._model.given == {"weights": None, "truncation": 0.5, "device": CPU, "dtype": torch.bfloat16}
    assert generator.dtype == "bfloat16" and generator.name == "givenmodel:make" and generator.fixed_batch_size is None
    assert generator.class_names == ("cat", "dog") and generator.weights_sha256 == "ab" * 32
    generator = synthgen.load_generator("givenmodel:half", device="cpu", dtype="float32")
    assert generator._model.given == {"dtype": torch.float32}
    assert generator.render(torch.zeros(2, 4), torch.tensor([0, 1]), size=4).shape == (2, 4, 4, 3)


def test_a_resumed_folder_decides_dtype_and_batch(write_module: Module, tmp_path: Path) -> None:
    write_module("resumedmodel", OWN_GENERATOR)
    options: dict[str, Any] = {"generator": "resumedmodel:make", "devices": "cpu", "quiet": True, "classes": "dog"}
    first = synthgen.render(n=20, out=tmp_path / "d", dtype="bfloat16", batch_size=7, **options)
    grown = synthgen.render(n=30, out=tmp_path / "d", **options)
    assert grown.render == first.render and (first.render.dtype, first.render.batch_size) == ("bfloat16", 7)
    assert grown.class_names == {1: "dog"} and grown.recipe.classes == (1,)


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("absent:make", None, ["no module absent", "run from the folder of absent.py"]),
        ("pkg.absent:make", None, ["no module pkg", "run from the folder of pkg.py"]),
        ("m1:make", "import no_such_package", ["m1 cannot be imported", "no_such_package", "install it"]),
        ("m2:make", "def make(:", ["m2 cannot be imported", "SyntaxError", "SHARDS_TRACEBACK=1"]),
        ("m3:make", "def mkae(): ...", ["m3", "has no make"]),
        ("m4:make", "make = 3", ["m4:make is no function but 3"]),
        ("m5:make", "def make(colour): ...", ["m5:make needs colour", "weights, truncation, device, dtype"]),
        ("m6:make", "def make(weights): ...", ["m6:make needs weights", "--weights"]),
        ("m7:make", "def make(): 1 / 0", ["m7:make failed (ZeroDivisionError", "SHARDS_TRACEBACK=1"]),
        ("m8:make", "def make(): return object()", ["m8:make", "no weights_sha256", "file_sha256"]),
        ("m9:make", "def make(): ...", ["m9:make returned nothing", "sample(latents, labels)"]),
        ("m10:make", "import sys; sys.exit(0)", ["m10 cannot be imported (SystemExit: 0)", "SHARDS_TRACEBACK=1"]),
        ("m11:make", "import sys\ndef make(): sys.exit(0)", ["m11:make failed (SystemExit: 0)"]),
        ("my_faces.py:make", None, ["name the module and its function, my_faces:FUNCTION"]),
        ("a-b:make", None, ["give module:function"]),
        ("model.pkl", None, ["model.pkl is a pickle", "never loaded", "export_program"]),
        ("weights/model.pth", None, ["is a pickle", ".pt2"]),
        ("stylegan9", None, ["no generator 'stylegan9'", "module:function", "synthgen generators --help"]),
    ],
)
def test_a_function_that_cannot_be_used(
    write_module: Module, tmp_path: Path, name: str, source: str | None, words: list[str]
) -> None:
    if source is not None:
        write_module(name.split(":")[0], source)
    result = CliRunner().invoke(main, ["render", "--n=4", "--out=d", f"--generator={name}", "--devices=cpu"])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output
    for word in words:
        assert word in result.stderr, result.stderr
    assert not (tmp_path / "d").exists()


def test_weights_are_identified_or_refused(write_module: Module, tmp_path: Path) -> None:
    write_module("weighty", OWN_GENERATOR + "\ndef none(): return make()\ndef path(weights=None): return make()\n")
    (tmp_path / "w.bin").write_bytes(b"weights")

    def load(function: str, weights: Path | None) -> Any:
        return synthgen.load_generator(f"weighty:{function}", weights=weights, device="cpu")

    assert load("none", None).weights_sha256 == load("path", tmp_path).weights_sha256 == "ab" * 32, "a folder has none"
    with pytest.raises(ValueError, match="weighty:none takes no weights: omit --weights"):
        load("none", tmp_path / "w.bin")
    with pytest.raises(ValueError, match=r"no weights .*absent: check the path"):
        load("path", tmp_path / "absent")
    with pytest.raises(ValueError, match=r"weights_sha256 is abababababab…, and .*w\.bin has"):
        load("path", tmp_path / "w.bin")


def test_weights_that_change_while_they_are_read_are_refused(write_module: Module, tmp_path: Path) -> None:
    source = "\ndef make(weights): weights.write_bytes(b'others'); m = Model(); m.weights_sha256 = None; return m\n"
    write_module("hasty", OWN_GENERATOR + source)
    (tmp_path / "w.bin").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"w\.bin changed while it was loaded: run the same command again"):
        synthgen.load_generator("hasty:make", weights=tmp_path / "w.bin", device="cpu")


STEERABLE = """
import torch

class Model:
    latent_dim, image_size, weights_sha256, num_layers = 4, 8, "cd" * 32, 1
    scale = torch.nn.Parameter(torch.tensor(0.5))

    def sample(self, latents, labels):
        if CUT_OFF:
            latents = latents.detach()
        return (self.scale * latents[:, :3])[:, :, None, None].expand(-1, -1, 8, 8).tanh()

    def latent_weights(self):
        return torch.diag(torch.tensor([1.0, 3.0, 2.0, 0.0]))

    def activations(self, latents, labels, *, layer):
        return latents @ self.latent_weights()

def make():
    return Model()
"""


def test_a_model_of_ones_own_is_steered_and_factorised(write_module: Module, tmp_path: Path) -> None:
    write_module("steerable", "CUT_OFF = False\n" + STEERABLE)
    options: dict[str, Any] = {"generator": "steerable:make", "device": "cpu"}
    walks = synthgen.steer.train(out=tmp_path / "walks.safetensors", edit="brightness", steps=60, **options)
    assert walks.matrix[0, :3].min() > 0.1 and abs(walks.matrix[0, 3]) < 1e-6, "brighter in all colours"
    assert sys.modules["steerable"].Model.scale.grad is None, "its weights gather no gradients"
    sefa = synthgen.directions(out=tmp_path / "sefa.safetensors", k=2, **options)
    assert np.abs(sefa.matrix).argmax(axis=1).tolist() == [1, 2]
    pca = synthgen.directions(out=tmp_path / "pca.safetensors", method="pca", k=1, samples=200, **options)
    assert abs(pca.matrix[0, 1]) > 0.95


def test_a_model_that_cannot_be_steered_or_factorised(write_module: Module, tmp_path: Path) -> None:
    write_module("cutoff", "CUT_OFF = True\n" + STEERABLE)
    with pytest.raises(ValueError, match=r"cutoff:make lets no gradients through: leave torch\.no_grad out"):
        synthgen.steer.train(out=tmp_path / "w.safetensors", generator="cutoff:make", steps=1, device="cpu")
    write_module("layerless", OWN_GENERATOR)
    with pytest.raises(ValueError, match=r"layerless:make does not show its layers"):
        synthgen.directions(out=tmp_path / "d.safetensors", generator="layerless:make", device="cpu")
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("views", ["independent", "mixture:gaussian@0.5+independent@0.5"])
def test_views_that_keep_a_class_need_classes(
    write_module: Module, documented_block: Callable[[str], str], tmp_path: Path, views: str
) -> None:
    write_module("my_generator", documented_block("class Generator:"))
    documented_weights(tmp_path / "weights.safetensors")
    command = ["render", "--n=4", "--out=d", "--generator=my_generator:make", "--weights=weights.safetensors"]
    result = CliRunner().invoke(main, [*command, f"--views={views}", "--devices=cpu", "--quiet"])
    assert result.exit_code == 2 and "has no classes, so an independent view has nothing in common" in result.stderr
    assert not (tmp_path / "d").exists()
