"""A stranger's .pt2 file can run nothing but its operators, though torch.export.load would run what lies in it."""

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
from torch import Tensor, nn

import synthgen
from synthgen.adapters.program_export import export_program
from synthgen.adapters.program_files import read_program_file

LATENTS, LABELS = torch.linspace(-1, 1, 5 * 6).reshape(5, 6), torch.arange(5)


class Network(nn.Module):
    """Latents of six and ten classes to images of eight pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.linear = nn.Embedding(10, 6), nn.Linear(6, 3 * 8 * 8)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh(self.linear(latents + self.embed(labels)).view(-1, 3, 8, 8))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest program; not to be written to."""
    path = tmp_path_factory.mktemp("program") / "cats.pt2"
    return export_program(Network().eval(), path, latent_dim=6, num_classes=10)


def load(path: Path) -> Any:
    return synthgen.load_generator(str(path), device="cpu")


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
    images = load(evil).sample(LATENTS, LABELS)
    torch.testing.assert_close(images, load(program).sample(LATENTS, LABELS), rtol=0, atol=0)
    assert not mark.exists(), "examples of inputs are left out"
    with suppress(Exception):
        torch.export.load(evil)
    assert mark.exists(), "torch grew safe: the check may go"


def test_pickled_weights_are_read_by_a_safe_unpickler_or_not_at_all(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(program) as archive:
        is_old = "serialized_state_dict.pt" in archive.namelist()  # of torch before 2.8

    def with_weights(value: object) -> Path:
        change = swapped(("serialized_state_dict.pt",), saved(value))
        added = {} if is_old else {"data/weights/model.pt": saved(value)}
        return rewrite(program, tmp_path / "w.pt2", change, **added)

    mark = tmp_path / "mark"
    with pytest.raises(ValueError, match=r"w\.pt2 holds a pickle in .* that is more than tensors .* is not loaded"):
        read_program_file(with_weights(Touch(mark)))
    assert not mark.exists()
    plain = with_weights({"weight": torch.zeros(3)})
    read_program_file(plain)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ValueError, match=r"a pickle in .*, which torch 2\.9\.1\+cpu cannot read safely \(CVE-2026"):
        read_program_file(plain)
    if not is_old:
        read_program_file(program)  # it holds no pickled weights


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
        (in_text("torch.ops.aten.tanh.default", "torch.ops.aten._to_dense.default"), r"a call of .*_to_dense"),
        (in_text("torch.ops.aten.tanh.default", "torch.ops.aten._sparse_addmm.default"), r"a call of .*_sparse_addmm"),
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
    locked = bytearray(program.read_bytes())
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1  # the archive's table says that its last part is encrypted
    (tmp_path / "locked.pt2").write_bytes(locked)
    listed = rewrite(program, tmp_path / "listed.pt2", edit(("data/weights/model_weights_config.json",), lambda _: []))
    for path in (tmp_path / "locked.pt2", *([listed] if parts(listed) != parts(program) else [])):
        with pytest.raises(ValueError, match=rf"{path.name} cannot be read as a program .*: export it again"):
            load(path)
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(ValueError, match=r"no file .*folder\.pt2"):
        load(tmp_path / "folder.pt2")
    flawed = rewrite(program, tmp_path / "flawed.pt2", in_text("torch.ops.aten.tanh.default", "torch.ops.aten.no_.op"))
    with pytest.raises(ValueError, match=r"flawed\.pt2 cannot be loaded by torch .*: export it again"):
        load(flawed)
