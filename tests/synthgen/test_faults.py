"""What goes wrong while a render runs, for real: one line, an exit code, nothing half written, and a way on.

What is refused before the first pass is in test_refusals; single lost blocks are in test_lost_blocks.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import synthgen
from shards.folder import finish_dataset, lock_dataset
from shards.manifest import load_manifest
from shards.markers import marker_path, scan_markers
from shards.progress import Progress
from shards.verification import verify
from synthgen.adapters.biggan import BigGANGenerator
from synthgen.devices import explain_out_of_memory
from tests.synthgen.small_renders import arguments, assert_same, assert_whole_shards_only, refused, run

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 700 kB, mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", place]).returncode != 0:
        pytest.skip("may not mount a disk here (that needs root)")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(small_disk: Path, tiny_weights: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, which somebody else fills after the check of free space."""
    monkeypatch.setattr("synthgen.rendering.check_disk", lambda job, state: None)
    out = small_disk / "d"
    refused(run(out, tiny_weights), "train-0000", "No space left on device", "free some space, then run the same")
    done = assert_whole_shards_only(out)
    assert 0 < done < 6
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert run(out, tiny_weights).exit_code == 0
    assert_same(out, whole)


def fail_with(monkeypatch: pytest.MonkeyPatch, code: int, suffix: str) -> None:
    """From now on the system refuses to open or rename files whose name ends so for writing."""
    real_open, real_replace = open, os.replace

    def opened(path: object, mode: str = "r", *rest: object, **named: object) -> object:
        if "w" in mode and suffix in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return real_open(path, mode, *rest, **named)  # type: ignore[call-overload]

    def replaced(source: Path, target: Path) -> None:
        if str(target).endswith(suffix):
            raise OSError(code, os.strerror(code), str(source), None, str(target))
        real_replace(source, target)

    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("os.replace", replaced)


@pytest.mark.parametrize("suffix", ["train-000002.tar", "train-000002.index.npy", "train-000002.done.json"])
@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left"), (errno.EACCES, "Permission denied")])
def test_the_disk_gives_up_at_every_step_of_publishing(
    tiny_weights: Path, whole: Path, tmp_path: Path, code: int, words: str, suffix: str
) -> None:
    out = tmp_path / "d"
    with pytest.MonkeyPatch.context() as patch:
        fail_with(patch, code, suffix)
        refused(run(out, tiny_weights), words, suffix.split(".")[0])
    assert not list(out.glob("data/.*")) and not (out / "manifest.json").exists()
    assert {0, 1} <= set(scan_markers(out)) <= {0, 1, 3, 4, 5}, "later ones may be under way in the other thread"
    assert run(out, tiny_weights).exit_code == 0
    assert_same(out, whole)


@pytest.mark.parametrize("name", ["README.md", "SHA256SUMS", "_info.json", "manifest.json"])
def test_the_disk_gives_up_while_the_dataset_is_finished(
    tiny_weights: Path, whole: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "d"
    with pytest.MonkeyPatch.context() as patch:
        fail_with(patch, errno.ENOSPC, name)
        refused(run(out, tiny_weights), "No space left", name)
    assert assert_whole_shards_only(out) == 6 and not list(out.glob(".*.tmp"))
    assert run(out, tiny_weights).exit_code == 0
    assert_same(out, whole)


@pytest.mark.parametrize("method", ["publish", "add"])
def test_permission_lost_during_the_job(tiny_weights: Path, whole: Path, tmp_path: Path, method: str) -> None:
    """The folder becomes read-only for the process once two shards are there, with the third begun or not."""
    out = tmp_path / "d"
    second = marker_path(out, 1)
    code = f"""
import os, pathlib, shards.writer, synthgen.cli
real = shards.writer.ShardWriter.{method}
calls = []
def lose(self, **named):
    result = real(self, **named)
    calls.append(1)
    if len(calls) == {2 if method == "publish" else 110}:
        while not os.path.exists({str(second)!r}):
            os.sched_yield()
        pathlib.Path({str(out / "data")!r}).chmod(0o555)
        if os.geteuid() == 0:  # whom no permission stops
            os.setresuid(65534, 65534, 65534)
    return result
shards.writer.ShardWriter.{method} = lose
synthgen.cli.main({arguments(out, tiny_weights)!r})
"""
    for folder in (tmp_path, *tmp_path.parents[:2]):  # pytest's own, closed to others
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Permission denied" in done.stderr, done.stderr
    assert "choose a place that you may read and write, or change its permissions" in done.stderr
    (out / "data").chmod(0o755)
    left = [path.name for path in (out / "data").glob(".*")]
    assert all(name.startswith(".train-000002.tar.") and name.endswith(".tmp") for name in left), (
        "what may not be removed any more stays, under a name that no reader takes"
    )
    assert set(scan_markers(out)) == {0, 1}
    assert run(out, tiny_weights).exit_code == 0
    assert not list((out / "data").glob(".*"))
    assert_same(out, whole)


def test_two_processes_on_one_folder(tiny_weights: Path, tmp_path: Path) -> None:
    """The second one, another process, says who is there and changes nothing; the first one goes on."""
    with lock_dataset(tmp_path / "d"):
        before = sorted((tmp_path / "d").rglob("*"))
        command = [sys.executable, "-m", "synthgen", *arguments(tmp_path / "d", tiny_weights)]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert f"another job (pid {os.getpid()}" in done.stderr and "choose another folder" in done.stderr
        assert sorted((tmp_path / "d").rglob("*")) == before
    assert run(tmp_path / "d", tiny_weights).exit_code == 0


def test_a_wall_clock_that_runs_backwards_changes_nothing(
    tiny_weights: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    monkeypatch.setattr("synthgen.runners.local.Progress", lambda **named: Progress(every_seconds=0, **named))
    settings = {"weights": tiny_weights, "devices": "cpu", "dtype": "float32", "shard_size": 50, "batch_size": 25}
    synthgen.render(n=300, out=tmp_path / "d", **settings)
    said = capsys.readouterr().err
    assert said.count(" left, ") > 3 and "-" not in said.replace(str(tmp_path), "").replace("biggan-deep-32", "")
    for marker in scan_markers(tmp_path / "d").values():
        assert marker.seconds > 0 and all(busy >= 0 for busy in marker.stages.values())
    assert_same(tmp_path / "d", whole)


def test_no_code_of_a_render_asks_for_the_wall_clock() -> None:
    """Only steady clocks: a corrected one must not reach bytes, markers or rates.

    Claims are the exception: machines that share a disk share no steady clock. They save work and decide nothing.
    """
    claims = {"claims.py", "work.py", "progress.py", "worker.py"}
    forbidden = {"time", "time_ns", "now", "utcnow", "today", "ctime", "localtime", "st_mtime", "getmtime"}
    files = [path for room in ("synthgen", "shards") for path in (ROOT / room).rglob("*.py") if path.name not in claims]
    assert len(files) > 30
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                assert not (owner in ("time", "datetime", "date") and node.attr in forbidden), f"{path}: {node.attr}"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b'{"format": 1, "recipe": 3}'], ids=str
)
def test_a_corrupt_marker(tiny_weights: Path, whole: Path, tmp_path: Path, content: bytes) -> None:
    """It is damage, the line names the file, and doing what it says repairs it."""
    out = Path(shutil.copytree(whole, tmp_path / "d"))
    marker = out / "data" / "train-000003.done.json"
    marker.write_bytes(content)
    refused(run(out, tiny_weights), f"{marker}: ", "delete this file and run the command that made", exit_code=1)
    assert any(str(marker) in problem for problem in verify(out).problems)
    marker.unlink()
    assert run(out, tiny_weights).exit_code == 0
    assert_same(out, whole)


@pytest.mark.parametrize("kept_bytes", [0, 512, -1])
def test_a_tar_truncated_after_its_marker(tiny_weights: Path, whole: Path, tmp_path: Path, kept_bytes: int) -> None:
    """A resumed render sees the size and renders that shard again, and no other."""
    out = Path(shutil.copytree(whole, tmp_path / "d"))
    tar, others = out / "data" / "train-000002.tar", {}
    os.truncate(tar, kept_bytes if kept_bytes >= 0 else tar.stat().st_size + kept_bytes)
    assert not verify(out).ok and not verify(out, fast=True).ok
    others = {path: path.stat().st_mtime_ns for path in out.glob("data/*.tar") if path != tar}
    assert run(out, tiny_weights).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert_same(out, whole)


def test_a_tar_altered_in_place_is_for_verify_to_find(tiny_weights: Path, whole: Path, tmp_path: Path) -> None:
    """Its size is right, so a resumed render believes it; the full check and its repair do not."""
    out = Path(shutil.copytree(whole, tmp_path / "d"))
    tar = out / "data" / "train-000002.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    assert run(out, tiny_weights).exit_code == 0 and verify(out, fast=True).ok
    problems = verify(out).problems
    assert problems and all("train-000002" in problem for problem in problems)
    for path in out.glob("data/train-000002.*"):
        path.unlink()
    assert run(out, tiny_weights).exit_code == 0
    assert_same(out, whole)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("at_pass", [1, 9])
def test_no_memory_is_one_line_and_never_a_smaller_batch(
    tiny_weights: Path, whole: Path, tmp_path: Path, error: Exception, at_pass: int
) -> None:
    out, sizes = tmp_path / "d", []
    real = BigGANGenerator.sample
    with pytest.MonkeyPatch.context() as patch:

        def sample(self: BigGANGenerator, latents: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
            sizes.append(len(latents))
            if len(sizes) >= at_pass:
                raise error
            return real(self, latents, *rest, **named)  # type: ignore[arg-type]

        patch.setattr(BigGANGenerator, "sample", sample)
        refused(run(out, tiny_weights), "cpu ran out of memory at batch size 25", "--batch-size", "never lowered")
    assert set(sizes) == {25}
    assert not out.joinpath("data").exists() or assert_whole_shards_only(out) < 3
    assert run(out, tiny_weights).exit_code == 0
    assert_same(out, whole)


def test_no_memory_for_the_weights_or_the_dry_run(tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synthgen.job.load_generator", lambda *rest, **named: raise_(torch.OutOfMemoryError("CUDA")))
        refused(run(tmp_path / "d", tiny_weights), "ran out of memory at batch size 25")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BigGANGenerator, "sample", lambda *rest, **named: raise_(torch.OutOfMemoryError("CUDA")))
        refused(run(tmp_path / "d", tiny_weights, "--dry-run"), "ran out of memory at batch size 25")
    assert not (tmp_path / "d").exists()


def raise_(error: Exception) -> None:
    raise error


def test_passes_that_went_on_with_less_scratch_are_not_published(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where cuDNN finds no room it takes another engine without a word: only the allocator's count tells."""
    counts = iter([3, 3, 3, 4])  # at the beginning, and before each of three shards
    monkeypatch.setattr("synthgen.pipeline.count_failed_allocations", lambda device: next(counts, 4))
    out = tmp_path / "d"
    refused(run(out, tiny_weights), "cpu ran out of memory at batch size 25: ")
    assert assert_whole_shards_only(out) == 2


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("out of memory"), NotImplementedError()])
def test_other_errors_are_not_called_a_lack_of_memory(error: Exception) -> None:
    with pytest.raises(type(error)), explain_out_of_memory(CPU, batch_size=1):
        raise error


def test_a_manifest_says_where_its_shards_were_rendered(whole: Path, tmp_path: Path) -> None:
    """Each environment once, also where two machines worked; older manifests name none, and can be read."""
    manifest = load_manifest(whole)
    (environment,) = manifest.environments
    assert environment["torch"] == torch.__version__ and environment["cpu_model"]
    two = Path(shutil.copytree(whole, tmp_path / "two"))
    for index in (1, 4):
        marker = two / "data" / f"train-{index:06d}.done.json"
        marker.write_text(marker.read_text().replace('"device":"cpu"', '"device":"Abacus 3000"'))
    with lock_dataset(two):
        finish_dataset(two, num_groups=300, shard_size=50)
    assert [entry["device"] for entry in load_manifest(two).environments] == ["cpu", "Abacus 3000"]
    data = json.loads((whole / "manifest.json").read_text())
    del data["environments"]
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    assert load_manifest(tmp_path).environments == ()
