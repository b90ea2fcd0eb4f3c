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
from synthgen.adapters.exported_program import load_program
from synthgen.adapters.probing import probe_generator
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


def test_the_exported_built_in_gives_the_adapters_pixels(tiny_weights: Path, tmp_path: Path) -> None:
    built_in: Any = synthgen.load_generator(weights=tiny_weights, device="cpu", dtype="float32")
    export_program(
        built_in.network, tmp_path / "b.pt2", latent_dim=16, num_classes=10, class_names=built_in.class_names
    )
    options: dict[str, Any] = {"n": 30, "devices": "cpu", "dtype": "float32", "format": "png", "quiet": True}
    ours = synthgen.render(out=tmp_path / "ours", weights=tiny_weights, batch_size=10, **options)
    theirs = synthgen.render(out=tmp_path / "theirs", generator=str(tmp_path / "b.pt2"), batch_size=10, **options)
    assert theirs.class_names == ours.class_names and theirs.recipe.classes == ours.recipe.classes
    assert theirs.recipe.source["generator"] == "b.pt2"
    assert theirs.recipe.source["weights_sha256"] == file_sha256(tmp_path / "b.pt2")
    first, second = (GroupDataset(tmp_path / name).batch(range(30))[0] for name in ("ours", "theirs"))
    assert (first == second).all()


def test_classes_as_ids_as_rows_and_none(program: Path, tmp_path: Path) -> None:
    expected = Network().eval()(LATENTS, LABELS).detach()
    ids = load(program)
    assert (ids.latent_dim, ids.image_size, ids.num_classes, ids.dtype) == (6, 8, 10, "float32")
    assert ids.fixed_batch_size is None and ids.name == "cats.pt2"
    torch.testing.assert_close(ids.sample(LATENTS, LABELS), expected)
    rows = load(save(OneHot().eval(), tmp_path / "rows.pt2", torch.zeros(2, 6), torch.zeros(2, 10)))
    assert rows.num_classes == 10
    torch.testing.assert_close(rows.sample(LATENTS, LABELS), expected)
    none = load(save(Convolutional().eval(), tmp_path / "none.pt2", torch.zeros(2, 6, 1, 1)))
    assert none.num_classes == 0 and none.class_names == ()
    torch.testing.assert_close(none.sample(LATENTS, LABELS), Network().eval()(LATENTS, LABELS * 0).detach())
    for generator in (ids, rows, none):
        probe_generator(generator, batch_size=50, device=CPU)


def test_constants_inside_the_graph_move_with_the_program(program: Path) -> None:
    """The meta device stands for a GPU: an operator that met a tensor of the CPU would fail, or give one."""
    meta = torch.device("meta")
    generator = load_program(str(program), weights=None, device=meta, dtype="auto")
    assert generator.sample(LATENTS.to(meta), LABELS.to(meta)).device == meta
    assert generator.render(LATENTS.to(meta), LABELS.to(meta)).shape == (5, 8, 8, 3)


def test_a_fixed_batch_is_the_render_batch(tmp_path: Path) -> None:
    path = export_program(Unlabelled().eval(), tmp_path / "fixed.pt2", latent_dim=6, batch_size=4)
    command = ["render", "--n=10", "--out", str(tmp_path / "d"), "--generator", str(path), "--devices=cpu", "--quiet"]
    refused = CliRunner().invoke(main, [*command, "--batch-size=8"])
    assert refused.exit_code == 2 and "fixed.pt2 was exported for batches of 4" in refused.stderr
    assert not (tmp_path / "d").exists()
    assert CliRunner().invoke(main, command).exit_code == 0
    assert synthgen.job.load_manifest(tmp_path / "d").render.batch_size == 4
    sheet = synthgen.views.show(
        out=tmp_path / "sheet.png", policy="gaussian", std=0.1, generator=str(path), samples=6, device="cpu"
    )
    assert sheet.stat().st_size > 0, "six anchors, in batches of four"
    with pytest.raises(ValueError, match=r"fixed\.pt2 takes batches of 4 alone: export it for any batch"):
        synthgen.steer.train(out=tmp_path / "w.safetensors", generator=str(path), steps=1, device="cpu")


def test_bfloat16_is_kept_and_recorded(tmp_path: Path) -> None:
    path = save(Unlabelled().eval().bfloat16(), tmp_path / "half.pt2", torch.zeros(2, 6, dtype=torch.bfloat16))
    generator = load(path)
    assert generator.dtype == "bfloat16" and generator.sample(LATENTS, LABELS).dtype == torch.float32
    manifest = synthgen.render(n=4, out=tmp_path / "d", generator=str(path), devices="cpu", quiet=True)
    assert manifest.render.dtype == "bfloat16"
    assert synthgen.render(n=4, out=tmp_path / "d", generator=str(path), devices="cpu", quiet=True) == manifest
    with pytest.raises(ValueError, match=r"half\.pt2 was exported in bfloat16: omit --dtype"):
        load(path, dtype="float32")


def test_a_recipe_finds_its_file_in_another_folder(program: Path) -> None:
    for weights in (program, program.parent):
        assert load("cats.pt2", weights=weights).weights_sha256 == file_sha256(program)
    with pytest.raises(ValueError, match=r"no file .*dogs\.pt2: check the path"):
        load("dogs.pt2", weights=program.parent)


class Elaborate(Unlabelled):
    """What generators are made of beside convolutions: einsum, attention, interpolation, sizes that depend on B."""

    def forward(self, latents: Tensor) -> Tensor:
        images = super().forward(latents)
        rows = images.reshape(images.shape[0] * 3, 8, 8)
        scores = torch.einsum("bij,bkj->bik", rows, rows).softmax(-1)
        images = torch.nn.functional.scaled_dot_product_attention(scores, rows, rows).view(-1, 3, 8, 8)
        images = torch.nn.functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        with torch.no_grad():
            noise = torch.linspace(-1, 1, 16).expand(images.shape[0], 1, 16, 16)
        return torch.tanh(torch.nn.functional.gelu(images + noise, approximate="tanh"))


def test_elaborate_networks_pass_the_check(tmp_path: Path) -> None:
    network = Elaborate().eval()
    generator = load(export_program(network, tmp_path / "e.pt2", latent_dim=6))
    probe_generator(generator, batch_size=50, device=CPU)
    torch.testing.assert_close(generator.sample(LATENTS, LABELS), network(LATENTS).detach())


class Two(Unlabelled):
    def forward(self, latents: Tensor) -> Any:
        return super().forward(latents), latents


class Keyword(Unlabelled):
    def forward(self, nested: list[Tensor]) -> Any:  # type: ignore[override]
        return super().forward(nested[0])


class Grey(Unlabelled):
    def forward(self, latents: Tensor) -> Any:
        return super().forward(latents)[:, :1]


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (Two, [torch.zeros(2, 6)], "gives more than one tensor: export a forward that returns the images alone"),
        (Grey, [torch.zeros(2, 6)], r"its images are \[.*, 1, 8, 8\] float32"),
        (Network, [torch.zeros(2, 6), LABELS[:2]], r"does not say how many classes .* extra_files=\{'synthgen.json'"),
        (Unlabelled, [torch.zeros(2, 6).double()], r"its weights are float64: export it in float32 or bfloat16"),
    ],
)
def test_a_program_of_another_kind(network: Any, inputs: list[Tensor], message: str, tmp_path: Path) -> None:
    module = network().eval().to(inputs[0].dtype)
    with pytest.raises(ValueError, match=rf"^x\.pt2: .*{message}") as caught:
        load(save(module, tmp_path / "x.pt2", *inputs))
    assert "docs/bring-your-own-generator.md" in str(caught.value) and "\n" not in str(caught.value)


def test_nested_inputs_and_training_mode_are_refused(tmp_path: Path) -> None:
    with torch.no_grad():
        nested = torch.export.export(Keyword().eval(), ([torch.zeros(2, 6)],))
        training = torch.export.export(Unlabelled().train(), (torch.zeros(2, 6),))
    torch.export.save(nested, tmp_path / "nested.pt2")
    torch.export.save(training, tmp_path / "training.pt2")
    torch.export.save(training.run_decompositions(), tmp_path / "decomposed.pt2")
    with pytest.raises(ValueError, match="it takes keywords or nested inputs"):
        load(tmp_path / "nested.pt2")
    with pytest.raises(ValueError, match=r"it changes norm\.\w+ at every pass: export the network in eval mode"):
        load(tmp_path / "decomposed.pt2")
    with pytest.raises(ValueError, match="changes with the others of its batch"):
        probe_generator(load(tmp_path / "training.pt2"), batch_size=2, device=CPU)


def test_export_refuses_what_would_not_render(tmp_path: Path) -> None:
    for arguments, message in (
        ({"path": tmp_path / "x.pt"}, r"call the file something\.pt2"),
        ({"class_names": ["a"]}, "1 class names for 0 classes"),
        ({"network": Unlabelled().train()}, "training mode"),
        ({"network": Network().eval()}, "cannot trace Network"),
    ):
        with pytest.raises(ValueError, match=message):
            export_program(
                **({"network": Unlabelled().eval(), "path": tmp_path / "x.pt2", "latent_dim": 6} | arguments)
            )
    assert not list(tmp_path.iterdir())
