"""A render of 300 groups from the command line, and what must be true of its folder whatever happened to it."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from shards.markers import scan_markers
from shards.verification import verify
from synthgen.cli import main

SIZES = ("--n=300", "--shard-size=50", "--batch-size=25")


def arguments(out: Path, weights: Path) -> list[str]:
    return ["render", f"--out={out}", f"--weights={weights}", "--devices=cpu", "--dtype=float32", "--quiet", *SIZES]


def run(out: Path, weights: Path, *options: str) -> Result:
    return CliRunner().invoke(main, [*arguments(out, weights), *options], prog_name="synthgen")


def refused(result: Result, *words: str, exit_code: int = 2) -> None:
    assert result.exit_code == exit_code, result.output
    assert result.stdout == "" and result.stderr.count("\n") == 1 and result.stderr.startswith("Error: "), result.output
    for word in words:
        assert word in result.stderr, result.stderr


def assert_whole_shards_only(out: Path) -> int:
    """Nothing but published shards in the folder; returns how many."""
    done = scan_markers(out)
    names = {path.name for path in (out / "data").iterdir()}
    assert {name for name in names if name.endswith(".tar")} == {f"train-{index:06d}.tar" for index in done}
    assert not [name for name in names if name.startswith(".")], "a temporary file remains"
    assert not (out / "manifest.json").exists()
    for index, marker in done.items():
        assert (out / "data" / f"train-{index:06d}.tar").stat().st_size == marker.bytes
    return len(done)


def assert_same(out: Path, whole: Path) -> None:
    assert (out / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
    assert verify(out).ok
