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
from synthgen.adapters.own_generator import OwnGenerator, usual_batch_size
from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.probing import probe_generator
from synthgen.adapters.weight_files import file_sha256
from synthgen.cli import main
from synthgen.plan import draw_groups

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


FULL = """
import torch

class Model:
    latent_dim, image_size, num_classes, class_names = 4, 8, 2, ["cat", "dog"]
    weights_sha256 = "ab" * 32

    def sample(self, latents, labels):
        assert labels.dtype == torch.int64
        return (latents.mean(1) / 2 + labels - 0.5)[:, None, None, None].expand(-1, 3, 8, 8)

def make(**given):
    model = Model()
    model.given = given
    return model

def half(dtype="nothing"):
    return make(dtype=dtype)
"""


def test_a_function_gets_what_it_names(write_module: Module) -> None:
    write_module("givenmodel", FULL)
    generator: Any = synthgen.load_generator("givenmodel:make", truncation=0.5, device="cpu", dtype="bfloat16")
    assert generator._model.given == {"weights": None, "truncation": 0.5, "device": CPU, "dtype": torch.bfloat16}
    assert generator.dtype == "bfloat16" and generator.name == "givenmodel:make" and generator.fixed_batch_size is None
    assert generator.class_names == ("cat", "dog") and generator.weights_sha256 == "ab" * 32
    generator = synthgen.load_generator("givenmodel:half", device="cpu", dtype="float32")
    assert generator._model.given == {"dtype": torch.float32}
    assert generator.render(torch.zeros(2, 4), torch.tensor([0, 1]), size=4).shape == (2, 4, 4, 3)


def test_a_resumed_folder_decides_dtype_and_batch(write_module: Module, tmp_path: Path) -> None:
    write_module("resumedmodel", FULL)
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
    write_module("weighty", FULL + "\ndef none(): return make()\ndef path(weights=None): return make()\n")
    (tmp_path / "w.bin").write_bytes(b"weights")

    def load(function: str, weights: Path | None) -> Any:
        return synthgen.load_generator(f"weighty:{function}", weights=weights, device="cpu")

    assert load("none", None).weights_sha256 == load("path", tmp_path).weights_sha256 == "ab" * 32, "a folder has none"
    with pytest.raises(ValueError, match="weighty:none takes no weights: leave --weights away"):
        load("none", tmp_path / "w.bin")
    with pytest.raises(ValueError, match=r"no weights .*absent: check the path"):
        load("path", tmp_path / "absent")
    with pytest.raises(ValueError, match=r"weights_sha256 is abababababab…, and .*w\.bin has"):
        load("path", tmp_path / "w.bin")


def test_weights_that_change_while_they_are_read_are_refused(write_module: Module, tmp_path: Path) -> None:
    source = "\ndef make(weights): weights.write_bytes(b'others'); m = Model(); m.weights_sha256 = None; return m\n"
    write_module("hasty", FULL + source)
    (tmp_path / "w.bin").write_bytes(b"weights")
    with pytest.raises(ValueError, match=r"w\.bin changed while it was loaded: run the same command again"):
        synthgen.load_generator("hasty:make", weights=tmp_path / "w.bin", device="cpu")


class Good:
    """An honest model, of which the others below spoil one thing each."""

    latent_dim, image_size, num_classes = 4, 8, 3

    def sample(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        rows = torch.tanh(latents.sum(1) + labels)
        return rows[:, None, None, None].expand(-1, 3, 8, 8).clone()


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
    write_module("layerless", FULL)
    with pytest.raises(ValueError, match=r"layerless:make does not show its layers"):
        synthgen.directions(out=tmp_path / "d.safetensors", generator="layerless:make", device="cpu")
    assert not list(tmp_path.glob("*.safetensors"))


def wrapped(model: object, **options: Any) -> OwnGenerator:
    settings: dict[str, Any] = {"name": "m:f", "weights_sha256": "0" * 64, "dtype": "float32", **options}
    return OwnGenerator(model, **settings)


def test_an_honest_model_survives_the_probe() -> None:
    for batch_size in (1, 2, 50):
        probe_generator(wrapped(Good()), batch_size=batch_size, device=CPU)
    assert wrapped(Good()).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("latent_dim", 0, r"m:f: latent_dim 0: give a whole number from 1"),
        ("latent_dim", 2.0, r"latent_dim 2\.0"),
        ("image_size", True, r"image_size True"),
        ("num_classes", -1, r"num_classes -1: give a whole number from 0"),
        ("class_names", ["a"], r"class_names has to be 3 texts"),
        ("class_names", "abc", r"class_names has to be 3 texts"),
        ("sample", None, r"no method sample"),
        ("weights_sha256", "abc", r"weights_sha256 'abc' is no sha256"),
    ],
)
def test_wrong_attributes_are_named(attribute: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        if attribute == "weights_sha256":
            wrapped(Good(), weights_sha256=value)
        else:
            wrapped(type("Spoilt", (Good,), {attribute: value})())


def test_missing_attributes_are_named() -> None:
    with pytest.raises(ValueError, match="m:f: its object has no image_size: give it one"):
        wrapped(object())


def spoilt(change: Callable[[torch.Tensor, torch.Tensor], Any]) -> Good:
    good = Good()
    return type(
        "Spoilt", (Good,), {"sample": lambda self, latents, labels: change(good.sample(latents, labels), latents)}
    )()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, z: x[:, :1], r"gave images \[8, 1, 8, 8\]: give \[8, 3, 8, 8\]"),
        (lambda x, z: x[0], r"gave images \[3, 8, 8\]"),
        (lambda x, z: x.permute(0, 2, 3, 1), r"gave images \[8, 8, 8, 3\]"),
        (lambda x, z: (x * 127 + 128).to(torch.uint8), r"images of torch\.uint8"),
        (lambda x, z: x.numpy(), r"gave a ndarray"),
        (lambda x, z: x / 0, r"NaN or infinity"),
        (lambda x, z: x * 127 + 127, r"go from .* give images in \[-1, 1\]"),
        (lambda x, z: x / 2 + 0.5, r"as in \[0, 1\]: give images in \[-1, 1\], 2 \* x - 1"),
        (lambda x, z: x + 0.01 * torch.randn_like(x), r"other images the second time: .* eval mode"),
        (lambda x, z: x - x.mean(0), r"changes with the others of its batch: .* eval mode"),
        (lambda x, z: z @ z, r"sample of latents \[8, 4\] failed \(RuntimeError"),
        (lambda x, z: x.to("meta"), r"images on meta for latents on cpu"),
    ],
)
def test_a_probe_says_what_is_wrong(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        probe_generator(wrapped(spoilt(change)), batch_size=50, device=CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_a_probe_without_memory_ends_in_one_line(write_module: Module, tmp_path: Path) -> None:
    write_module("hungry", FULL.replace("assert labels.dtype == torch.int64", "raise torch.OutOfMemoryError"))
    result = CliRunner().invoke(main, ["render", "--n=4", "--out=d", "--generator=hungry:make"])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert "ran out of memory at batch size 50" in result.stderr
    assert not (tmp_path / "d").exists()


def test_a_failed_probe_writes_nothing(write_module: Module, tmp_path: Path) -> None:
    write_module("spoilt", FULL.replace("- 0.5)", "+ 0.5)"))
    for extra in ([], ["--dry-run"]):
        result = CliRunner().invoke(main, ["render", "--n=4", "--out=d", "--generator=spoilt:make", *extra])
        assert result.exit_code == 2 and "as in [0, 1]" in result.stderr, result.output
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_stays_what_it_is(error: Exception) -> None:
    class Full(Good):
        def sample(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(type(error)):  # the renderer turns it into a line about --batch-size
        wrapped(Full()).sample(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


def test_larger_images_come_in_smaller_batches() -> None:
    assert [usual_batch_size(size, CPU) for size in (32, 64, 128)] == [50, 50, 10]
    assert [usual_batch_size(size, torch.device("cuda")) for size in (32, 64, 128, 256, 1024)] == [500, 500, 125, 31, 8]
