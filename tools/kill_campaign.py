"""Kill renders at random moments, let them resume, and compare the result with a render that nobody disturbed.

    python tools/kill_campaign.py --trials 200

SIGKILL falls, in turn, on a job after a random time; on a job at a random touch of the file system, so that publishing
gets its share; on one worker of two (--devices cpu:2), where the job has to go on by itself; and on the parent of two
workers. Every other trial grows a dataset that was finished before. After every kill all that bears a name has to be
whole; in the end every tar, index and manifest has to be the same, byte for byte. All the time another process opens
the folder and compares what it sees (tools/suspicious_reader.py).

The generator is a tiny one at random weights, and jobs of one process are forked from this one, which has torch loaded
already: a trial takes a second or two, those with workers a few more.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from tiny_generator import write_tiny_generator

import synthgen
from shards.claims import read_claims
from shards.console import Count
from shards.manifest import MANIFEST_NAME, load_manifest
from shards.markers import scan_markers
from shards.progress import Progress
from shards.quantities import format_seconds
from shards.verification import verify

BATCH_SIZE = 10
KINDS = ("time", "touch", "time", "touch", "worker", "time", "touch", "time", "touch", "parent")
_MOST_KILLS = 3
_HOPELESS_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What all trials have in common."""

    weights: Path
    whole: Path
    small: Path
    n: int
    shard_size: int
    seconds: float
    """That a render takes in a forked process."""
    touches: int
    """Of the file system, that a render makes."""

    def render(self, out: Path) -> None:
        """The job, in one process."""
        synthgen.render(n=self.n, out=out, devices="cpu", quiet=True, **settings(self.weights, self.shard_size))

    def command(self, out: Path) -> list[str]:
        """The job with two workers."""
        options = {"n": self.n, "out": out, "devices": "cpu:2", **settings(self.weights, self.shard_size)}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        return [sys.executable, "-m", "synthgen", "render", "--quiet", *arguments]


def settings(weights: Path, shard_size: int) -> dict[str, object]:
    return {"weights": weights, "shard_size": shard_size, "batch_size": BATCH_SIZE, "dtype": "float32"}


# ---------------------------------------------------------------------------------------------------------------------
# Processes and their ends


def fork(work: Callable[[], object]) -> int:
    """Runs `work` in a child of this process; it ends with code 0, or 1 after a traceback."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
            os._exit(1)
    return child


def run_forked(work: Callable[[], object]) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])
    assert code == 0, f"an undisturbed process ended with {code}"


def watch_touches(folder: Path, at: int, then: Callable[[], None]) -> Callable[[], int]:
    """Calls `then` before the `at`-th touch of the folder: Python reports opens, renames and removes in advance."""
    prefix, count = str(folder), 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(prefix):
            count += 1
            if count == at:
                then()

    sys.addaudithook(hook)
    return lambda: count


def kill_after(child: int, seconds: float) -> bool:
    """SIGKILL after the time; whether the child was still there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0


# ---------------------------------------------------------------------------------------------------------------------
# What is compared


def digests(dataset: Path, *, num_shards: int | None = None) -> dict[str, str]:
    """sha256 of every tar and index file, by name; of the first `num_shards` shards when given."""
    found = {}
    for path in sorted((dataset / "data").glob("train-*.*")):
        if path.suffix in (".tar", ".npy") and (num_shards is None or int(path.name[6:12]) < num_shards):
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def check_between(dataset: Path, whole: Path, manifests: list[bytes]) -> str:
    """The phase that the kill fell into; asserts that all there is whole, and no manifest but those given."""
    markers = scan_markers(dataset)
    for index, marker in markers.items():
        tar = dataset / "data" / f"train-{index:06d}.tar"
        assert hashlib.sha256(tar.read_bytes()).hexdigest() == marker.sha256, f"{tar} is not what its marker says"
    manifest = dataset / MANIFEST_NAME
    finished = manifest.exists() and manifest.read_bytes()
    assert finished is False or finished in manifests, "a manifest after a kill"
    tars = [path.name for path in (dataset / "data").glob("train-*.tar")] if (dataset / "data").is_dir() else []
    if finished == manifests[-1]:
        return "after the manifest"
    if len(tars) > len(markers):
        return "tar there, marker not yet"
    if list(dataset.glob("data/.train-*.tar.*.tmp")):
        return "within a shard"
    if list(dataset.glob(".*.tmp")) or len(markers) == len(load_manifest(whole).shards):
        return "before the manifest"
    return "between shards"


def is_identical(dataset: Path, whole: Path) -> bool:
    """Whether tars, indices and all files beside them are the same, and nothing is left over."""
    same = digests(dataset) == digests(whole)
    for path in whole.iterdir():
        if path.is_file() and not path.name.startswith("."):
            same &= (dataset / path.name).exists() and (dataset / path.name).read_bytes() == path.read_bytes()
    left = [*dataset.glob(".*.tmp"), *dataset.glob("data/.*"), *dataset.glob(".work")]
    return same and not left and verify(dataset).ok


# ---------------------------------------------------------------------------------------------------------------------
# Trials


def disturb(kind: str, campaign: Campaign, out: Path, rng: random.Random) -> bool:
    """Begins or resumes the job and kills it, or one of its workers; whether the kill came in time."""
    left = 1 - len(scan_markers(out)) / len(load_manifest(campaign.whole).shards)
    if kind == "time":
        return kill_after(fork(lambda: campaign.render(out)), rng.uniform(0, 1) * max(left, 0.1) * campaign.seconds)
    if kind == "touch":
        moment = rng.randint(1, max(1, round(left * campaign.touches)))

        def render_until() -> None:
            watch_touches(out, moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
            campaign.render(out)

        return os.waitstatus_to_exitcode(os.waitpid(fork(render_until), 0)[1]) < 0
    with subprocess.Popen(campaign.command(out), stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + _HOPELESS_SECONDS
        while job.poll() is None and not read_claims(out):
            assert time.monotonic() < deadline, "no worker has begun"
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3) * campaign.seconds)
        workers = sorted({claim.pid for claim in read_claims(out)})
        if kind == "parent":
            job.kill()
            job.communicate()
            return job.returncode < 0
        if workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
        said = (job.communicate()[1] or "").strip()
        assert job.returncode == 0, said
        return "was killed by SIGKILL" in said


def run_trial(number: int, campaign: Campaign, out: Path, rng: random.Random) -> tuple[str, list[str], bool]:
    """Kind, the phases that the kills fell into, and whether the end is identical."""
    kind = KINDS[number % len(KINDS)]
    manifests = [(campaign.whole / MANIFEST_NAME).read_bytes()]
    if number % 2:
        beside = out.with_suffix(".copy")
        shutil.copytree(campaign.small, beside)
        beside.rename(out)  # the reader must not see our copying
        manifests.insert(0, (campaign.small / MANIFEST_NAME).read_bytes())
    phases = []
    for _ in range(rng.randint(1, _MOST_KILLS) if kind in ("time", "touch") else 1):
        in_time = disturb(kind, campaign, out, rng)
        phase = check_between(out, campaign.whole, manifests) if out.exists() else "before the folder"
        phases.append(("within a worker" if kind == "worker" else phase) if in_time else "too late")
    if kind != "worker":
        run_patiently(campaign, out)
    return kind, phases, is_identical(out, campaign.whole)


def run_patiently(campaign: Campaign, out: Path) -> None:
    """Resumes; workers that have just lost their parent may hold the lock for a moment."""
    deadline = time.monotonic() + _HOPELESS_SECONDS
    while os.waitstatus_to_exitcode(os.waitpid(fork(lambda: campaign.render(out)), 0)[1]) != 0:
        assert time.monotonic() < deadline, "it does not resume"


@contextmanager
def suspicious_reader(scratch: Path, whole: Path, small: Path) -> Iterator[Callable[[Path], None]]:
    """The reader while the context lasts, which leaves its report in scratch; gives how to tell it the folder."""
    current, report = scratch / "current", scratch / "report.json"

    def tell(folder: Path) -> None:
        beside = current.with_suffix(".new")
        beside.write_text(str(folder))
        beside.replace(current)

    tell(scratch / "none")
    script = Path(__file__).with_name("suspicious_reader.py")
    options = {"current": current, "whole": whole, "small": small, "report": report}
    process = subprocess.Popen([sys.executable, script, *(f"--{name}={value}" for name, value in options.items())])
    try:
        yield tell
    finally:
        process.terminate()
        process.wait()


def prepare(scratch: Path, *, n: int, prefix: int, shard_size: int) -> Campaign:
    """The undisturbed renders, and how long one takes."""
    weights, whole, small = (scratch / name for name in ("weights", "whole", "small"))
    counted = scratch / "touches"
    run_forked(lambda: write_tiny_generator(weights))
    kept = {"weights": weights, "whole": whole, "small": small, "n": n, "shard_size": shard_size}

    def render_counting() -> None:
        count = watch_touches(whole, 0, lambda: None)
        Campaign(**kept, seconds=0, touches=0).render(whole)  # type: ignore[arg-type]
        counted.write_text(str(count()))

    began = time.monotonic()
    run_forked(render_counting)
    seconds = time.monotonic() - began
    run_forked(lambda: synthgen.render(n=prefix, out=small, devices="cpu", quiet=True, **settings(weights, shard_size)))
    return Campaign(**kept, seconds=seconds, touches=int(counted.read_text()))  # type: ignore[arg-type]


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--trials", type=Count(), default="200", show_default=True)
@click.option("--n", type=Count(), default="200", show_default=True, help="Groups of the dataset.")
@click.option("--prefix", type=Count(), default="80", show_default=True, help="Groups of the smaller dataset.")
@click.option("--shard-size", type=Count(), default="20", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the moments.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder to work in.  [default: a temporary one]")
def main(trials: int, n: int, prefix: int, shard_size: int, seed: int, work: Path | None) -> None:
    if prefix % shard_size or prefix > n:
        raise click.UsageError(f"--prefix {prefix}: give a multiple of --shard-size {shard_size}, at most --n {n}")
    began, rng = time.monotonic(), random.Random(seed)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        scratch = Path(folder)
        campaign = prepare(scratch, n=n, prefix=prefix, shard_size=shard_size)
        nested = digests(campaign.whole, num_shards=prefix // shard_size) == digests(campaign.small)
        shards = len(load_manifest(campaign.whole).shards)
        click.echo(
            f"undisturbed: {shards} shards, {format_seconds(campaign.seconds)}, {campaign.touches} touches", err=True
        )
        identical: Counter[str] = Counter()
        done: Counter[str] = Counter()
        fallen: Counter[str] = Counter()
        with (
            suspicious_reader(scratch, campaign.whole, campaign.small) as tell,
            Progress(total=trials, unit="trials", label="killing") as progress,
        ):
            for number in range(trials):
                out = scratch / f"trial-{number}"
                tell(out)
                kind, phases, same = run_trial(number, campaign, out, rng)
                done[kind] += 1
                identical[kind] += same
                fallen.update(phases)
                if not same:
                    progress.note(f"trial {number} ({kind}, seed {seed}): DIFFERENT")
                tell(scratch / "none")
                shutil.rmtree(out)
                progress.advance(identical=identical.total())
        report = json.loads((scratch / "report.json").read_text())
    looks = ", ".join(f"{count} {what}" for what, count in sorted(report["seen"].items()))
    click.echo(f"{identical.total()} of {trials} trials identical to the undisturbed render")
    click.echo("  " + ", ".join(f"{kind} {identical[kind]} of {done[kind]}" for kind in done))
    click.echo("  kills: " + ", ".join(f"{count} {phase}" for phase, count in fallen.most_common()))
    click.echo(f"the reader saw {len(report['wrong'])} wrong things in {sum(report['seen'].values())} looks ({looks})")
    for text in report["wrong"][:3]:
        click.echo(text, err=True)
    click.echo(f"the first {prefix} groups: {'identical' if nested else 'DIFFERENT'} to a render of {prefix}")
    click.echo(f"{format_seconds(time.monotonic() - began)}", err=True)
    if report["wrong"] or identical.total() < trials or not nested:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
