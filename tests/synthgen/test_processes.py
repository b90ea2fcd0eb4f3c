"""A process per device: the same bytes as from one, and whatever is done to them, nothing half made remains."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pytorch_pretrained_biggan import BigGAN

import synthgen
from shards.claims import read_claims
from shards.folder import lock_holder
from shards.verification import verify
from shards.work import read_failures
from synthgen import devices
from synthgen.runners import processes
from synthgen.runners.processes import MOST_LOSSES

NUM_GROUPS = 4000
SECONDS_UNTIL_HOPELESS = 120


def command(out: Path, weights: Path) -> list[str]:
    options = {"n": NUM_GROUPS, "out": out, "weights": weights, "shard-size": 250, "batch-size": 20, "devices": "cpu:2"}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "synthgen", "render", *arguments, "--dtype=float32", "--quiet"]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS_UNTIL_HOPELESS
    while not condition():
        assert time.monotonic() < deadline


def pids_in_mid_shard(out: Path) -> set[int]:
    """Workers that have a claim and a tar on its way."""
    names = [path.name for path in out.glob("data/.train-*.tar.*.tmp")]
    writing = {int(name.split(".")[-2]) for name in names}
    return writing & {claim.pid for claim in read_claims(out)}


def temporaries(out: Path) -> list[Path]:
    return [*out.glob(".*.tmp"), *out.glob("data/.*.tmp")]


def test_killed_parents_interrupts_and_killed_workers(tiny_weights: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "d"
    manifest = synthgen.render(
        n=NUM_GROUPS,
        out=whole,
        weights=tiny_weights,
        shard_size=250,
        batch_size=20,
        devices="cpu",
        dtype="float32",
        quiet=True,
    )

    # The parent is killed: its workers end, too, and let go of the folder.
    with subprocess.Popen(command(out, tiny_weights)) as parent:
        wait_until(lambda: len(pids_in_mid_shard(out)) == 2)
        workers = {claim.pid for claim in read_claims(out)}
        assert lock_holder(out) == f"pid {parent.pid}, host {os.uname().nodename}"
        parent.kill()
    wait_until(lambda: lock_holder(out) is None)
    for pid in workers:
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}/cmdline").exists() or not _is_worker(pid))

    # Ctrl-C: everybody leaves in good order. A shell starts what runs in its background with Ctrl-C ignored.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command(out, tiny_weights), stderr=subprocess.PIPE, text=True, preexec_fn=heeding) as parent:
        wait_until(lambda: pids_in_mid_shard(out) - workers)  # what the dead ones left lies there, too
        parent.send_signal(signal.SIGINT)
        said = parent.communicate()[1]
    assert parent.returncode == 130
    assert said.splitlines() == [
        "Error: stopped by Ctrl-C: what is finished is kept; run the same command again for the rest"
    ]
    assert temporaries(out) == [] and read_claims(out) == [] and lock_holder(out) is None
    assert synthgen.status(out).state == "stopped" and read_failures(out) == []

    # One of two workers is killed in mid-shard: it is told, and another renders the shard.
    with subprocess.Popen(command(out, tiny_weights), stderr=subprocess.PIPE, text=True) as parent:
        wait_until(lambda: pids_in_mid_shard(out))
        victim = pids_in_mid_shard(out).pop()
        os.kill(victim, signal.SIGKILL)
        said = parent.communicate()[1]
    assert parent.returncode == 0, said
    assert re.fullmatch(
        rf"the worker on cpu \(pid {victim}\) was killed by SIGKILL \(by hand, or because memory ran out\) "
        r"in shard \d+; its shard is rendered again \(attempt 2, 3 at most\)\n",
        said,
    ), said

    for path in sorted(whole.rglob("*")):
        if path.suffix in (".tar", ".npy") or (path.parent == whole and path.is_file() and path.name[0] != "."):
            copy = out / path.relative_to(whole)
            assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest(), path
    assert temporaries(out) == [] and not (out / ".work").exists()
    assert verify(out).ok and synthgen.status(out).finished
    assert synthgen.status(out).num_shards == len(manifest.shards)


def _is_worker(pid: int) -> bool:
    try:
        return b"synthgen.runners.worker_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------------------------------
# What the parent makes of its workers, with workers that only pretend

LOST_IN_A_SHARD = """
import json, os, sys, time
from pathlib import Path
from shards.claims import Claim, take_shard
from shards.processes import host_tag
request = json.loads(sys.stdin.readline())
claim = Claim(index=2, count=1, host=host_tag(), pid=os.getpid(), device="cpu", task="", began=time.time())
while take_shard(Path(request["config"]["out"]), claim) != "taken":
    pass  # the other one has it: a worker without a shard is lost before its first
os.kill(os.getpid(), 9)
"""
LOST_BEFORE = "import sys; sys.stdin.readline(); sys.exit(3)"
ANSWERS = "import sys; sys.stdin.readline(); print({!r}); sys.exit(1)"


@pytest.fixture
def render_with(tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def run(script: str) -> None:
        monkeypatch.setattr(processes, "_COMMAND", (sys.executable, "-c", script))
        synthgen.render(
            n=60, out=tmp_path / "d", weights=tiny_weights, shard_size=20, batch_size=10, devices="cpu:2", quiet=True
        )

    return run


def test_a_shard_that_costs_every_worker_is_given_up(
    render_with: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ValueError,
        match=r"SIGKILL .* in shard 2, after [34] attempts: if memory ran out, give fewer",
    ):
        render_with(LOST_IN_A_SHARD)
    failures = read_failures(tmp_path / "d")
    assert {failure.index for failure in failures} == {2}
    assert MOST_LOSSES <= len(failures) <= MOST_LOSSES + 1, (
        "two workers may be lost in it at once, and one record stand for both"
    )
    assert "rendered again (attempt " in capsys.readouterr().err
    assert read_claims(tmp_path / "d") == [] and lock_holder(tmp_path / "d") is None


def test_workers_that_never_begin_are_given_up(render_with: Callable[[str], None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ended with code 3 before its first shard, after 3 attempts"):
        render_with(LOST_BEFORE)
    assert lock_holder(tmp_path / "d") is None


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ({"kind": "ValueError", "message": "cuda:0 ran out of memory"}, ValueError, "cuda:0 ran out of memory"),
        ({"kind": "OSError", "errno": 28, "message": "No space", "filename": "/d/x.tar"}, OSError, "No space"),
        ({"kind": "other", "message": "TypeError: no"}, RuntimeError, r"worker on cpu failed \(TypeError: no\)"),
    ],
)
def test_errors_of_workers_are_raised_here(
    render_with: Callable[[str], None], answer: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        render_with(ANSWERS.format(json.dumps(answer)))
    assert getattr(caught.value, "filename", None) == answer.get("filename")


def test_weights_replaced_before_a_worker_reads_them(
    render_with: Callable[[str], None],
    network_maker: Callable[..., BigGAN],
    package_layout: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The real worker, told of another recipe than the one that it finds."""
    package_layout(tmp_path / "others", network_maker(seed=1))
    swap = f"""
import io, json, sys
request = json.loads(sys.stdin.readline())
request["config"]["weights"] = {str(tmp_path / "others")!r}
sys.stdin = io.TextIOWrapper(io.BytesIO(json.dumps(request).encode() + b"\\n"))
from synthgen.runners import worker_process
worker_process._end_with_parent = lambda: None
worker_process.main()
"""
    with pytest.raises(ValueError, match=r"on cpu is not the one that the job began with: .* put them back"):
        render_with(swap)
    assert not list((tmp_path / "d").rglob("*.tar"))


def test_a_worker_tells_its_error_and_ends(tmp_path: Path) -> None:
    """The real one: a request that cannot work, and none at all."""
    worker = [sys.executable, "-m", "synthgen.runners.worker_process"]
    config = {"n": 4, "out": str(tmp_path / "d"), "weights": "/no/such/folder", "devices": "cpu"}
    request = {"config": config, "recipe_id": "", "cores": sorted(os.sched_getaffinity(0)), "task": "", "shards": []}
    with subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.read())
    assert process.returncode == 1 and answer["kind"] == "ValueError" and "/no/such/folder" in answer["message"]
    assert subprocess.run(worker, stdin=subprocess.DEVNULL).returncode == 1


# ---------------------------------------------------------------------------------------------------------------------
# Which devices


def test_cores_are_dealt_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7, 9, 11})
    shares = [devices.share_cores(index, 2) for index in range(2)]
    assert shares == [{3, 5}, {7, 9, 11}]
    assert [devices.share_cores(index, 7) for index in range(7)] == [{3}, {5}, {7}, {9}, {11}, {3}, {5}]
    assert devices.share_cores(0, 1) == {3, 5, 7, 9, 11}


def names(text: str) -> list[str]:
    return [str(device) for device in devices.choose_devices(text)]


def test_devices_of_a_machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_gpus", lambda: 0)
    assert names("auto") == names("cpu") == names("cpu:1") == ["cpu"]
    assert names("cpu:3") == ["cpu"] * 3
    assert devices.describe_devices(devices.choose_devices("cpu:3")) == "cpu:3"
    for text, words in (
        ("cuda", "'cuda:0': this machine has 0 usable GPUs; give --devices auto or cpu"),
        ("cpu:0", "cpu:2 (two processes)"),
        ("cpu:300", "at most 256 processes"),
        ("mps", "devices 'mps': give auto"),
        ("", "devices '': give auto"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            names(text)


def test_devices_of_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    models = ["A", "A", "A", "B"]
    monkeypatch.setattr(devices, "count_gpus", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[device.index])
    assert names("auto") == names("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert names("cuda:2, cuda:0") == ["cuda:2", "cuda:0"]
    assert names("cuda:1,cuda:1") == ["cuda:1", "cuda:1"]  # two processes on one GPU
    assert devices.describe_devices(devices.choose_devices("cuda:2,cuda:0")) == "cuda:2,cuda:0"
    monkeypatch.setattr(devices, "count_gpus", lambda: 4)
    for text, words in (
        ("auto", "cuda:3 is B, and other models give other last bits; give one model, such as --devices cuda:0,cuda:1"),
        ("cuda:3,cpu", "cpu is CPU, and other models give other last bits; give one model, such as --devices cuda:3"),
        ("cuda:4", "this machine has 4 usable GPUs"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            names(text)
