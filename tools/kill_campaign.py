"""Kill a render again and again, let it resume, and compare the result with a render that nobody disturbed.

    python tools/kill_campaign.py --n 10k --kills 5 --prefix 2k

SIGKILL falls at random moments. After every kill a reader looks at the folder: there must be no finished dataset, and
every shard with a marker must be whole. In the end every tar, index and manifest has to be the same, byte for byte, and
so has the beginning of the dataset and a smaller one.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

import synthgen
from shards.console import Count, format_seconds
from shards.manifest import MANIFEST_NAME, load_manifest
from shards.markers import scan_markers


def command(out: Path, *, n: int, shard_size: int) -> list[str]:
    arguments = ["--n", str(n), "--out", str(out), "--shard-size", str(shard_size), "--devices", "cpu", "--quiet"]
    return [sys.executable, "-m", "synthgen", "render", *arguments]


def digests(dataset: Path, *, num_shards: int | None = None) -> dict[str, str]:
    """sha256 of every tar and index file, by name; of the first `num_shards` shards when given."""
    found = {}
    for path in sorted((dataset / "data").glob("train-*.*")):
        if path.suffix in (".tar", ".npy") and (num_shards is None or int(path.name[6:12]) < num_shards):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def check_between(dataset: Path) -> int:
    """Shards done so far, each of them whole; asserts that nothing claims to be a finished dataset."""
    assert not (dataset / MANIFEST_NAME).exists(), "a manifest after a kill"
    markers = scan_markers(dataset)
    for index, marker in markers.items():
        tar = dataset / "data" / f"train-{index:06d}.tar"
        assert hashlib.sha256(tar.read_bytes()).hexdigest() == marker.sha256, f"{tar} is not what its marker says"
    return len(markers)


def render_with_kills(out: Path, *, n: int, shard_size: int, kills: int, seconds: float, seed: int) -> None:
    """Render into `out`, killed at `kills` moments that are uniform over the time a whole render takes."""
    rng = random.Random(seed)
    for number in range(kills):
        process = subprocess.Popen(command(out, n=n, shard_size=shard_size))
        delay = rng.uniform(0.02, 1) * seconds / kills * 1.5
        try:
            process.wait(delay)
            assert process.returncode == 0
            click.echo(f"kill {number + 1}/{kills}: the render was finished before {delay:.1f} s", err=True)
            return
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = check_between(out) if out.exists() else 0
        click.echo(f"kill {number + 1}/{kills} after {delay:.1f} s: {done} shards done, all of them whole", err=True)
    subprocess.run(command(out, n=n, shard_size=shard_size), check=True)


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--n", type=Count(), default="10k", show_default=True, help="Groups of the dataset.")
@click.option("--prefix", type=Count(), default="2k", show_default=True, help="Groups of the smaller dataset.")
@click.option("--kills", type=Count(), default="5", show_default=True)
@click.option("--shard-size", type=Count(), default="1000", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder to work in.  [default: a temporary one]")
def main(n: int, prefix: int, kills: int, shard_size: int, seed: int, work: Path | None) -> None:
    if prefix % shard_size or prefix > n:
        raise click.UsageError(f"--prefix {prefix}: give a multiple of --shard-size {shard_size}, at most --n {n}")
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        whole, killed, small = (Path(scratch) / name for name in ("whole", "killed", "small"))
        began = time.monotonic()
        synthgen.render(n=n, out=whole, shard_size=shard_size, devices="cpu", quiet=True)
        seconds = time.monotonic() - began
        click.echo(f"undisturbed: {n} groups in {format_seconds(seconds)}", err=True)
        render_with_kills(killed, n=n, shard_size=shard_size, kills=kills, seconds=seconds, seed=seed)
        subprocess.run(command(small, n=prefix, shard_size=shard_size), check=True)
        same = digests(whole) == digests(killed)
        same &= (whole / MANIFEST_NAME).read_bytes() == (killed / MANIFEST_NAME).read_bytes()
        nested = digests(whole, num_shards=prefix // shard_size) == digests(small)
        shards = len(load_manifest(killed).shards)
    click.echo(f"{shards} shards after {kills} kills: {'identical' if same else 'DIFFERENT'} to the undisturbed render")
    click.echo(f"its first {prefix} groups: {'identical' if nested else 'DIFFERENT'} to a render of {prefix}")
    if not (same and nested):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
