"""Compiled passes: recorded, the same bytes whoever renders them, close to plain ones, and refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import synthgen
from shards.manifest import load_manifest
from shards.markers import scan_markers
from shards.recipe import RenderSettings
from synthgen.adapters import load_generator
from synthgen.adapters.compiling import CompiledGenerator, compile_passes
from synthgen.adapters.own_generator import OwnGenerator
from synthgen.adapters.probing import probe_inputs
from synthgen.arithmetic import reproducible_arithmetic
from synthgen.cli import main
from synthgen.config import RenderConfig
from synthgen.devices import describe_environment, find_compiler
from synthgen.job import prepare_job
from synthgen.verification import verify_render
from tests.synthgen.small_renders import assert_same, refused

CPU = torch.device("cpu")
compiles = pytest.mark.skipif(find_compiler(CPU) is None, reason="torch.compile needs a C++ compiler on a CPU")
SIZES = ("--n=120", "--shard-size=50", "--batch-size=20", "--dtype=bfloat16", "--format=png")


def run(out: Path, weights: Path, *options: str) -> Result:
    arguments = ["render", f"--out={out}", f"--weights={weights}", "--devices=cpu", "--quiet", *SIZES, *options]
    return CliRunner().invoke(main, arguments, prog_name="synthgen")


@pytest.fixture(scope="module")
def fused(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of compiled passes; not to be written to."""
    folder = tmp_path_factory.mktemp("fused") / "d"
    result = run(folder, tiny_weights, "--compile")
    assert result.exit_code == 0, result.output
    return folder


@compiles
def test_a_dataset_says_that_its_passes_were_compiled(fused: Path) -> None:
    assert load_manifest(fused).render == RenderSettings(batch_size=20, dtype="bfloat16", compiled=True)
    assert json.loads((fused / "manifest.json").read_bytes())["render"]["compiled"] is True
    here = describe_environment(CPU, compiled=True)
    assert "compiler" in here and "compiler" not in describe_environment(CPU)
    assert all(marker.environment == here for marker in scan_markers(fused).values())


def test_plain_datasets_are_written_and_read_as_before() -> None:
    plain = RenderSettings(batch_size=20, dtype="bfloat16")
    assert plain.to_json() == {"batch_size": 20, "dtype": "bfloat16"}
    assert RenderSettings.from_json(plain.to_json()) == plain
    fused = replace(plain, compiled=True)
    assert RenderSettings.from_json(fused.to_json()) == fused
    assert plain.difference(fused) == "render.compiled: False in the folder, True asked for"
    with pytest.raises(ValueError, match="compiled 'yes': give true or false"):
        RenderSettings.from_json({**plain.to_json(), "compiled": "yes"})
    with pytest.raises(ValueError, match="batch_size, dtype, compiled; it has"):
        RenderSettings.from_json({"compiled": True, "dtype": "float32"})


@compiles
def test_the_bytes_depend_neither_on_processes_nor_on_what_was_there(
    fused: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    result = run(tmp_path / "two", tiny_weights, "--compile", "--devices=cpu:2")
    assert result.exit_code == 0, result.output
    assert_same(tmp_path / "two", fused)
    assert run(tmp_path / "grown", tiny_weights, "--compile", "--n=60").exit_code == 0
    grown = run(tmp_path / "grown", tiny_weights)  # the folder's own settings
    assert grown.exit_code == 0, grown.output
    assert_same(tmp_path / "grown", fused)
    again = synthgen.render(manifest=fused, out=tmp_path / "again", weights=tiny_weights, devices="cpu", quiet=True)
    assert again.render.compiled
    assert_same(tmp_path / "again", fused)


@compiles
def test_plain_and_compiled_do_not_mix(fused: Path, tiny_weights: Path, tmp_path: Path) -> None:
    refused(run(fused, tiny_weights, "--no-compile"), "render.compiled: True in the folder, False asked for")
    assert run(tmp_path / "plain", tiny_weights).exit_code == 0
    assert not load_manifest(tmp_path / "plain").render.compiled
    refused(run(tmp_path / "plain", tiny_weights, "--compile"), "render.compiled: False in the folder, True asked for")
    beside = ["render", f"--from={fused}", f"--out={tmp_path / 'other'}", "--no-compile"]
    refused(CliRunner().invoke(main, beside, prog_name="synthgen"), "--compile is decided by the manifest")


@compiles
def test_verification_compiles_as_the_dataset_did(fused: Path, tiny_weights: Path) -> None:
    options: dict[str, Any] = {"weights": tiny_weights, "device": "cpu"}
    same = verify_render(fused, **options)
    assert same.ok and same.sameness.identical and same.compiled
    plain = verify_render(fused, compile=False, **options)
    assert plain.ok and not plain.sameness.identical and not plain.compiled
    assert plain.sameness.plan_same and 0 < plain.sameness.worst_image_mean < 1.5
    assert plain.sameness.environment_difference == "render.compiled: True in the folder, False asked for"


def graphs_of(job: Callable[[], object]) -> int:
    from torch._dynamo.utils import counters

    before = counters["stats"]["unique_graphs"]
    job()
    return counters["stats"]["unique_graphs"] - before


@compiles
def test_one_graph_serves_all_threads_whatever_the_caller_has_set(
    fused: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"weights": tiny_weights, "devices": "cpu", "dtype": "bfloat16", "format": "png"}
    options |= {"compile": True, "batch_size": 20, "shard_size": 50, "n": 120, "out": tmp_path / "d"}
    assert graphs_of(lambda: synthgen.render(dry_run=True, **options)) == 1
    assert not (tmp_path / "d").exists()
    with torch.autocast("cpu"), torch.device("cpu"), torch._inductor.config.patch(freezing=True, max_autotune=True):
        assert graphs_of(lambda: synthgen.render(quiet=True, **options)) == 1
    assert_same(tmp_path / "d", fused)
    assert graphs_of(lambda: verify_render(fused, weights=tiny_weights, device="cpu")) == 1


@compiles
def test_a_process_may_compile_many(tiny_weights: Path) -> None:
    generator = load_generator(weights=tiny_weights, device="cpu", dtype="float32")
    done = compile_passes(generator, batch_size=1, device=CPU)
    assert compile_passes(done, batch_size=1, device=CPU) is done
    model = wrapped(torch.sin)
    assert [graphs_of(lambda n=n: compile_passes(model, batch_size=n, device=CPU)) for n in range(1, 11)] == [1] * 10  # type: ignore[misc]


@compiles
def test_every_kind_of_machine_has_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for flags in (("avx2",), ("avx2",), ("avx2", "avx512f")):
        monkeypatch.setattr("synthgen.adapters.compiling.cpu_flags", lambda flags=flags: flags)
        compile_passes(wrapped(torch.cos), batch_size=13, device=CPU)
    kinds = list(tmp_path.iterdir())
    assert len(kinds) == 2 and all(kind.name.startswith("synthgen-") for kind in kinds)
    assert list(tmp_path.rglob("*.so")), "what was compiled lies there"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)


@compiles
def test_torch_compile_that_is_switched_off_is_refused(fused: Path, tiny_weights: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "synthgen", "render", f"--out={tmp_path / 'd'}", f"--weights={tiny_weights}"]
    switched_off = {**os.environ, "TORCHDYNAMO_DISABLE": "1"}
    result = subprocess.run(
        [*arguments, "--devices=cpu", "--quiet", "--compile", *SIZES], env=switched_off, capture_output=True, text=True
    )
    assert result.returncode == 2 and "torch.compile is switched off here" in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and not list((tmp_path / "d").glob("data/*"))
    for stance in ("force_eager", "eager_on_recompile"):
        with torch.compiler.set_stance(stance), pytest.raises(ValueError, match="switched off here, by TORCHDYNAMO_"):
            compile_passes(wrapped(torch.sin), batch_size=4, device=CPU)


@compiles
def test_a_machine_without_a_compiler_is_told(
    fused: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    assert describe_environment(CPU, compiled=True)["compiler"] == "none"
    refused(run(tmp_path / "d", tiny_weights, "--compile"), "needs a C++ compiler", "omit --compile")
    assert not list((tmp_path / "d").glob("data/*")) and not (tmp_path / "d" / "manifest.json").exists()
    assert run(tmp_path / "d", tiny_weights).exit_code == 0
    assert verify_render(fused, compile=False, weights=tiny_weights, device="cpu").ok


def test_a_torch_whose_kernels_may_change_is_refused(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.list_options", lambda: ["freezing"])
    generator = load_generator(weights=tiny_weights, device="cpu")
    with pytest.raises(ValueError, match=r"--compile needs torch 2\.10 or newer"):
        compile_passes(generator, batch_size=4, device=CPU)


class Drawn:
    """A model of eight pixels whose passes are `change` of a plain one."""

    image_size, latent_dim = 8, 6

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        torch.manual_seed(0)
        self.linear, self.change = torch.nn.Linear(6, 3 * 8 * 8).requires_grad_(False), change

    def sample(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.change(self.linear(latents).view(-1, 3, 8, 8)))


def wrapped(change: Callable[[torch.Tensor], torch.Tensor]) -> OwnGenerator:
    return OwnGenerator(Drawn(change), name="mine:make", weights_sha256="0" * 64, dtype="float32")


@compiles
def test_anyones_model_is_compiled_too() -> None:
    plain = wrapped(torch.sin)
    fused = compile_passes(plain, batch_size=12, device=CPU)
    assert fused is not plain and (fused.name, fused.latent_dim, fused.num_classes) == ("mine:make", 6, 0)
    latents, labels = probe_inputs(plain, count=12, device=CPU)
    with reproducible_arithmetic(CPU):
        torch.testing.assert_close(fused.sample(latents, labels), plain.sample(latents, labels))
        assert (fused.render(latents, labels, size=16).shape, fused.render(latents, labels).dtype) == (
            (12, 16, 16, 3),
            torch.uint8,
        )


@compiles
def test_a_model_with_a_state_is_refused() -> None:
    count = [0]

    def counted(images: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return images + 0 * count[0]

    with pytest.raises(ValueError, match="would be compiled anew at every pass: keep no state in its sample"):
        compile_passes(wrapped(counted), batch_size=4, device=CPU)


@compiles
def test_a_compiled_program_renders(tmp_path: Path) -> None:
    from synthgen.adapters.program_export import export_program
    from tests.synthgen.test_programs import Network

    path = export_program(Network().eval(), tmp_path / "cats.pt2", latent_dim=6, num_classes=10)
    options: dict[str, Any] = {"generator": str(path), "devices": "cpu", "format": "png", "quiet": True, "n": 30}
    assert synthgen.render(out=tmp_path / "d", compile=True, batch_size=10, **options).render.compiled
    assert verify_render(tmp_path / "d", weights=path, device="cpu").sameness.identical


def leave_the_graph(images: torch.Tensor) -> torch.Tensor:
    torch._dynamo.graph_break()
    return images


@compiles
def test_a_model_that_is_no_graph_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mine:make cannot be compiled \(.*omit --compile"):
        compile_passes(wrapped(leave_the_graph), batch_size=4, device=CPU)


def differ_when_compiled(images: torch.Tensor) -> torch.Tensor:
    return -images if torch.compiler.is_compiling() else images


@compiles
def test_compiled_passes_that_give_other_pictures_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"mine:make: compiled passes give other pictures, [0-9.]+ of 255 levels apart"
    ):
        compile_passes(wrapped(differ_when_compiled), batch_size=4, device=CPU)


def test_a_generator_without_a_bare_pass_is_refused() -> None:
    class Fixed:
        name = "fixed"

    with pytest.raises(ValueError, match="fixed has no bare_pass to compile: omit --compile"):
        compile_passes(Fixed(), batch_size=4, device=CPU)  # type: ignore[arg-type]


def test_tasks_elsewhere_are_told_and_nothing_is_compiled_here(tiny_weights: Path, tmp_path: Path) -> None:
    config = RenderConfig(n=30, out=tmp_path / "d", weights=tiny_weights, compile=True)
    job = prepare_job(config, elsewhere="cpu")
    assert job.render.compiled and config.settled(job).compile is True
    assert not isinstance(job.generator, CompiledGenerator)
    assert config.settled(prepare_job(replace(config, compile=None), elsewhere="cpu")).compile is False


@pytest.mark.parametrize(("to_measure", "place"), [(True, "cuda:0"), (False, "cpu")])
def test_a_dry_run_of_several_gpus_measures_on_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to_measure: bool, place: str
) -> None:
    gpus = (torch.device("cuda:0"), torch.device("cuda:1"))
    monkeypatch.setattr("synthgen.devices.choose_devices", lambda text: gpus)
    monkeypatch.setattr("synthgen.devices.on_device", nullcontext)
    monkeypatch.setattr("synthgen.job.dtype_to_ask_for", lambda *args, **options: "bfloat16")
    asked: list[str] = []

    def load(name: str, *, device: torch.device, **options: Any) -> None:
        asked.append(str(device))
        raise ValueError("far enough")

    monkeypatch.setattr("synthgen.job.load_generator", load)
    with pytest.raises(ValueError, match="far enough"):
        prepare_job(RenderConfig(n=30, out=tmp_path / "d"), to_measure=to_measure)
    assert asked == [place]
