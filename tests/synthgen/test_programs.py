"""A generator in a .pt2 file: what its signature says, and that a stranger's file can run nothing but its operators."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
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
from synthgen.adapters.program_files import read_program_file
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


# ---------------------------------------------------------------------------------------------------------------------
# What a program says of itself


def test_the_exported_built_in_gives_the_adapters_pixels(tiny_weights: Path, tmp_path: Path) -> None:
    built_in: Any = synthgen.load_generator(weights=tiny_weights, device="cpu", dtype="float32")
    export_program(
        built_in.network, tmp_path / "b.pt2", latent_dim=16, num_classes=10, class_names=built_in.class_names
    )
    options: dict[str, Any] = {"n": 30, "device": "cpu", "dtype": "float32", "format": "png", "quiet": True}
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


def test_a_fixed_batch_is_the_render_batch(tmp_path: Path) -> None:
    path = export_program(Unlabelled().eval(), tmp_path / "fixed.pt2", latent_dim=6, batch_size=4)
    command = ["render", "--n=10", "--out", str(tmp_path / "d"), "--generator", str(path), "--device=cpu", "--quiet"]
    refused = CliRunner().invoke(main, [*command, "--batch-size=8"])
    assert refused.exit_code == 2 and "fixed.pt2 was exported for batches of 4" in refused.stderr
    assert not (tmp_path / "d").exists()
    assert CliRunner().invoke(main, command).exit_code == 0
    assert synthgen.job.load_manifest(tmp_path / "d").render.batch_size == 4


def test_bfloat16_is_kept_and_recorded(tmp_path: Path) -> None:
    path = save(Unlabelled().eval().bfloat16(), tmp_path / "half.pt2", torch.zeros(2, 6, dtype=torch.bfloat16))
    generator = load(path)
    assert generator.dtype == "bfloat16" and generator.sample(LATENTS, LABELS).dtype == torch.float32
    manifest = synthgen.render(n=4, out=tmp_path / "d", generator=str(path), device="cpu", quiet=True)
    assert manifest.render.dtype == "bfloat16"
    assert synthgen.render(n=4, out=tmp_path / "d", generator=str(path), device="cpu", quiet=True) == manifest
    with pytest.raises(ValueError, match=r"half\.pt2 was exported in bfloat16: leave --dtype away"):
        load(path, dtype="float32")


def test_a_recipe_finds_its_file_in_another_folder(program: Path) -> None:
    for weights in (program, program.parent):
        assert load("cats.pt2", weights=weights).weights_sha256 == file_sha256(program)
    with pytest.raises(ValueError, match=r"no file .*dogs\.pt2: check the path"):
        load("dogs.pt2", weights=program.parent)


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


# ---------------------------------------------------------------------------------------------------------------------
# A stranger's file


class Touch:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


GRAPH = ("models/model.json", "serialized_exported_program.json")  # the second before torch 2.8
INPUTS = ("data/sample_inputs/model.pt", "serialized_example_inputs.pt")


def rewrite(source: Path, target: Path, change: Callable[[str, bytes], bytes], **added: bytes) -> Path:
    """The same archive with its parts changed (names without the root folder) and others added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name.removeprefix(f"{source.stem}/"), old.read(name)))
        for name, part in added.items():
            new.writestr(f"{source.stem}/{name}", part)
    return target


def parts(program: Path) -> list[bytes]:
    with zipfile.ZipFile(program) as archive:
        return [archive.read(name) for name in archive.namelist()]


def edit(part_names: tuple[str, ...], replace: Callable[[Any], Any]) -> Callable[[str, bytes], bytes]:
    """Changes the JSON of the part of one of these names."""
    return lambda name, part: json.dumps(replace(json.loads(part))).encode() if name in part_names else part


def in_text(old: str, new: str) -> Callable[[str, bytes], bytes]:
    """Replaces a piece of the texts in the graph."""

    def replaced(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return value.replace(old, new) if isinstance(value, str) else value

    return edit(GRAPH, replaced)


def swapped(part_names: tuple[str, ...], content: bytes) -> Callable[[str, bytes], bytes]:
    return lambda name, part: content if name in part_names else part


def graph_of(program: Path | io.BytesIO) -> str:
    """The part that holds the graph."""
    with zipfile.ZipFile(program) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(GRAPH))).decode()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def symbol_of(program: Path) -> str:
    """The expression of the batch size, as it stands in the graph."""
    graph = json.loads(graph_of(program))["graph_module"]["graph"]
    return str(graph["tensor_values"]["latents"]["sizes"][0]["as_expr"]["expr_str"])


def pickled_weight(config: Any) -> Any:
    next(iter(config["config"].values()))["use_pickle"] = True
    return config


def custom_constant(config: Any) -> Any:
    config["config"]["evil"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    return config


def with_guard(code: str) -> Callable[[Any], Any]:
    return lambda program: program | ({"guards_code": [code]} if "guards_code" in program else {})


def test_torch_itself_would_run_a_pickle_in_a_program(program: Path, tmp_path: Path) -> None:
    """Why there is a check at all; and the check stops the very same file."""
    mark = tmp_path / "mark"
    evil = rewrite(program, tmp_path / "evil.pt2", swapped(INPUTS, saved((Touch(mark),))))
    with pytest.raises(ValueError, match=r"evil\.pt2 holds a pickle in .*inputs.* is not loaded"):
        load(evil)
    assert not mark.exists()
    with suppress(Exception):
        torch.export.load(evil)
    assert mark.exists(), "torch grew safe: the check may go"


def test_torch_itself_would_run_text_in_a_program(program: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    evil = rewrite(program, tmp_path / "evil.pt2", in_text(symbol_of(program), code))
    with pytest.raises(ValueError, match=r"evil\.pt2 holds the expression .* where a size belongs"):
        load(evil)
    assert not mark.exists()
    with suppress(Exception):  # it fails, but only after the code has run
        torch.export.load(evil)
    assert mark.exists(), "torch grew safe: the check may go"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit(("data/weights/model_weights_config.json",), pickled_weight), "the pickled tensor"),
        (edit(("data/constants/model_constants_config.json",), custom_constant), "the custom object 'evil'"),
        (in_text("torch.ops.aten.tanh.default", "torch.hub.load"), r"a call of 'torch\.hub\.load'"),
        (in_text("torch.ops.aten.tanh.default", "torch.ops.aten.from_file.default"), r"a call of .*from_file"),
        (in_text("torch.ops.aten.tanh.default", "torch.ops.load_library"), r"a call of 'torch\.ops\.load_library'"),
        (in_text("torch.ops.aten.tanh.default", "os.system"), r"a call of 'os\.system'"),
        (in_text("torch.ops.aten.tanh.default", "#example"), r"a call of '#example'"),
        (in_text("latents", "latents=print(1)"), "the text .* where a name belongs"),
        (in_text("builtins.dict", "collections.defaultdict"), r"arguments of the type 'collections\.defaultdict'"),
        (in_text('"context": "[]"', '"context": "{\\"__enum__\\": 1}"'), r"arguments of the type 'builtins\.dict'"),
    ],
)
def test_what_could_run_is_named_and_not_loaded(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    evil = rewrite(program, tmp_path / "evil.pt2", change)
    if parts(evil) == parts(program):
        pytest.skip("this version of torch writes no such part")
    monkeypatch.setattr(torch.export, "load", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=rf"evil\.pt2 holds {message}.* is not loaded") as caught:
        load(evil)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/x.so", "data/constants/opaque_obj_0", "data/constants/custom_obj_0", "code/x.py"]
)
def test_parts_that_a_plain_program_does_not_have(program: Path, tmp_path: Path, name: str) -> None:
    evil = rewrite(program, tmp_path / "evil.pt2", lambda _, part: part, **{name: pickle.dumps(Touch(tmp_path / "m"))})
    with pytest.raises(ValueError, match=f"holds the part '{name}'"):
        load(evil)
    assert not (tmp_path / "m").exists()


def test_guards_and_metadata_are_left_out(program: Path, tmp_path: Path) -> None:
    """Guards are Python text that the loaded program would run; ours runs without them."""
    mark = tmp_path / "mark"
    guard = with_guard(f"__import__('pathlib').Path({str(mark)!r}).touch() is None")
    evil = rewrite(program, tmp_path / "evil.pt2", edit(GRAPH, guard))
    images = load(evil).sample(LATENTS, LABELS)
    assert not mark.exists()
    torch.testing.assert_close(images, load(program).sample(LATENTS, LABELS), rtol=0, atol=0)
    assert "stack_trace" in graph_of(evil) and "stack_trace" not in graph_of(read_program_file(evil).archive)


def test_files_that_are_no_programs(program: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "saved.pt2")
    (tmp_path / "text.pt2").write_text("not a zip")
    (tmp_path / "half.pt2").write_bytes(program.read_bytes()[:-500])
    with zipfile.ZipFile(tmp_path / "empty.pt2", "w") as archive:
        archive.writestr("a/version", "3")
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(tmp_path / "packed.pt2", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(program) as old,
        zipfile.ZipFile(tmp_path / "twice.pt2", "w") as new,
    ):
        for name in [*old.namelist(), old.namelist()[0]]:
            new.writestr(name, old.read(name))
    for name, message in {
        "saved": "a pickle of torch.save, not a program",
        "text": "is no program of torch.export.save",
        "half": "is no program of torch.export.save",
        "empty": "it holds no model",
        "packed": "the compressed part",
        "twice": "two parts called",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}\.pt2 .*{message}") as caught:
            load(tmp_path / f"{name}.pt2")
        assert "\n" not in str(caught.value)
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(ValueError, match=r"no file .*folder\.pt2"):
        load(tmp_path / "folder.pt2")
    flawed = rewrite(program, tmp_path / "flawed.pt2", in_text("torch.ops.aten.tanh.default", "torch.ops.aten.no_.op"))
    with pytest.raises(ValueError, match=r"flawed\.pt2 cannot be loaded by torch .*: export it again"):
        load(flawed)
