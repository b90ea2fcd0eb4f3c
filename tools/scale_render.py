"""What the number of groups does to the pipeline itself: a render of N groups whose generator costs next to nothing.

Draws, encoding, tars, checksums, markers, manifest, opening and verification are those of a real dataset; only the
arithmetic of a network is left out, so whatever grows with N shows. Recorded are the rate of each tenth of the run, the
process's memory (resident, without the page cache) over time, sizes, and the seconds that survey, finishing, opening
and verification take.

    python tools/scale_render.py --n 1.3M --json > scale.json      # 32 px, two images a group: about 8 GB on the disk
    python tools/scale_render.py --n 20k --shard-size 10           # as many shards as 2M groups have
"""

from __future__ import annotations

import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import measuring
import torch
import torch.nn.functional as F
from torch import Tensor

from shards.console import Count, format_table
from shards.dataset import GroupDataset
from shards.errors import DamageError
from shards.folder import finish_dataset, lock_dataset
from shards.progress import Progress
from shards.quantities import format_bytes, format_seconds
from shards.recipe import Recipe, RenderSettings
from shards.verification import verify
from synthgen.adapters.pixels import to_pixels
from synthgen.devices import count_forward_threads
from synthgen.disk_room import check_disk
from synthgen.job import RenderJob, survey_folder
from synthgen.pipeline import ShardRenderer, slowest_stage
from synthgen.views import make_policy

PACKAGES = ("synthgen", "torch", "numpy", "simplejpeg")
PARTS = 10
_MOST_SAMPLES = 1000
_T = TypeVar("_T")


class Clouds:
    """A generator without a network: the first 48 numbers of a latent are a 4 x 4 picture, enlarged smoothly."""

    name, weights_sha256, config_sha256, latent_dim = "clouds", "0" * 64, None, 128

    def __init__(self, *, image_size: int, num_classes: int = 1000) -> None:
        self.image_size, self.num_classes = image_size, num_classes
        self.class_names = tuple(f"cloud {label}" for label in range(num_classes))

    def sample(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images [B, 3, H, W], float32 in [-1, 1]."""
        size = (self.image_size, self.image_size)
        coarse = latents[:, :48].reshape(-1, 3, 4, 4) / 2
        return F.interpolate(coarse, size=size, mode="bilinear", align_corners=True).clamp(-1, 1)

    def render(self, latents: Tensor, labels: Tensor, *, size: int | None = None) -> Tensor:
        """Pixels [B, H, W, 3], uint8."""
        return to_pixels(self.sample(latents, labels), size=size)


@dataclass
class Watch:
    """Groups done and memory held, over the seconds of a run; a thread looks at the memory."""

    total: int
    every_seconds: float = 1.0
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    crossings: list[float] = field(default_factory=list)
    """Seconds at which each tenth of the groups was done."""
    memory: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds, groups done, resident bytes."""

    def advance(self, count: int) -> None:
        """Called with every few groups written."""
        self.done += count
        while len(self.crossings) < PARTS and self.done >= self.total * (len(self.crossings) + 1) / PARTS:
            self.crossings.append(time.monotonic() - self.began)

    def look(self) -> None:
        """Notes the memory; every second sample goes, and the distance doubles, when there are too many."""
        self.memory.append((round(time.monotonic() - self.began, 2), self.done, resident_bytes()))
        if len(self.memory) > _MOST_SAMPLES:
            del self.memory[1::2]
            self.every_seconds *= 2

    def watching(self, work: Callable[[], _T]) -> _T:
        """The work's result, with a look at the memory every so often while it runs, and one at the end."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(self.every_seconds):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        self.began = time.monotonic()
        thread.start()
        try:
            return work()
        finally:
            ended.set()
            thread.join()
            self.look()

    def rates(self) -> list[float]:
        """Groups per second of each tenth."""
        starts = [0.0, *self.crossings]
        return [self.total / PARTS / (end - start) for start, end in zip(starts, self.crossings, strict=False)]

    def memory_of_tenths(self) -> list[int]:
        """Largest resident bytes while each tenth was rendered; 0 where nobody looked."""
        largest = [0] * PARTS
        for _, done, size in self.memory:
            part = min(done * PARTS // self.total, PARTS - 1)
            largest[part] = max(largest[part], size)
        return largest


def resident_bytes() -> int:
    """Memory of this process that is its own: resident, without mapped files."""
    fields = [int(word) for word in Path("/proc/self/statm").read_text(encoding="ascii").split()]
    return (fields[1] - fields[2]) * resource.getpagesize()


def make_job(directory: Path, *, n: int, size: int, num_views: int, shard_size: int, batch_size: int) -> RenderJob:
    """A job like any other, but for its generator."""
    generator = Clouds(image_size=size)
    recipe = Recipe(
        source={"generator": generator.name, "weights_sha256": generator.weights_sha256, "truncation": 1.0},
        classes=tuple(range(generator.num_classes)),
        views=(make_policy("gaussian").recipe(),) * num_views,
        seed=0,
        image={"size": size, "format": "jpg", "quality": 95, "subsampling": "444" if size < 128 else "420"},
    )
    return RenderJob(
        directory=directory,
        num_groups=n,
        recipe=recipe,
        render=RenderSettings(batch_size=batch_size, dtype="float32"),
        shard_size=shard_size,
        generator=generator,
        devices=(torch.device("cpu"),),
    )


def measure_scale(job: RenderJob, *, jobs: int, quiet: bool = False) -> dict[str, Any]:
    """Renders the job into its folder, looks at it, and returns all figures.

    Raises:
        ValueError: the folder holds something else, or the disk is too small.
        DamageError: verification found something wrong.
    """
    timed: dict[str, float] = {}

    def time_step(name: str, step: Callable[[], _T]) -> _T:
        began = time.monotonic()
        result = step()
        timed[name] = round(time.monotonic() - began, 3)
        return result

    watch = Watch(total=job.num_groups)
    with lock_dataset(job.directory):
        state = survey_folder(job)
        if len(state.missing) < state.num_shards:
            raise ValueError(
                f"{job.directory} holds shards already: give an empty or new folder, to measure a whole run"
            )
        check_disk(job, state)
        memory_before = resident_bytes()
        renderer = ShardRenderer(
            directory=job.directory,
            recipe=job.recipe,
            render=job.render,
            generator=job.generator,
            device=job.device,
        )
        with Progress(total=job.num_groups, unit="groups", label="rendering", quiet=quiet) as progress:

            def on_groups(count: int) -> None:
                watch.advance(count)
                shares = renderer.busy_shares(time.monotonic() - watch.began)
                progress.advance(count, slowest=slowest_stage(shares))

            time_step("render", lambda: watch.watching(lambda: renderer.run(state.missing, on_groups=on_groups)))
        manifest = time_step(
            "finish", lambda: finish_dataset(job.directory, num_groups=job.num_groups, shard_size=job.shard_size)
        )
    shares = renderer.busy_shares(timed["render"])
    dataset = time_step("open", lambda: GroupDataset(job.directory))
    time_step("first_batch", lambda: dataset.batch(range(0, len(dataset), -(-len(dataset) // 64))))
    time_step("labels", lambda: dataset.labels)
    time_step("survey", lambda: survey_folder(job))
    report = time_step("verify", lambda: verify(job.directory, jobs=jobs, quiet=quiet))
    if not report.ok:
        raise DamageError(f"{job.directory}: {report.problems[0]}")
    rates, memory = watch.rates(), watch.memory_of_tenths()
    seen = [size for size in memory if size]
    return {
        "groups": job.num_groups,
        "images": job.num_groups * manifest.num_images,
        "shards": len(manifest.shards),
        "groups_per_second": job.num_groups / timed["render"],
        "images_per_second": job.num_groups * manifest.num_images / timed["render"],
        "rates_of_tenths": rates,
        "last_tenth_over_first": rates[-1] / rates[0],
        "slowest_tenth_over_median": min(rates) / sorted(rates)[len(rates) // 2],
        "memory_bytes_before": memory_before,
        "memory_bytes_of_tenths": memory,
        "memory_last_over_first": seen[-1] / seen[0],
        "memory_bytes_at_the_end": resident_bytes(),
        "memory_bytes_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "memory": watch.memory,
        "tar_bytes": manifest.total_bytes,
        "folder_bytes": sum(path.stat().st_blocks * 512 for path in job.directory.rglob("*")),
        "manifest_bytes": (job.directory / "manifest.json").stat().st_size,
        "seconds": timed,
        "busy_shares": {stage: round(share, 4) for stage, share in shares.items()},
        "image_size": job.recipe.image["size"],
        "shard_size": job.shard_size,
        "batch_size": job.render.batch_size,
        "forward_threads": count_forward_threads(job.device),
        "verify_jobs": jobs,
    }


def format_report(result: dict[str, Any]) -> list[str]:
    """The table of tenths, and what belongs under it."""
    rows = [
        (f"{part * 100 // PARTS} %", measuring.format_rate(rate), format_bytes(size) if size else "")
        for part, (rate, size) in enumerate(
            zip(result["rates_of_tenths"], result["memory_bytes_of_tenths"], strict=True), start=1
        )
    ]
    steps = ", ".join(f"{name.replace('_', ' ')} {format_seconds(value)}" for name, value in result["seconds"].items())
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in result["busy_shares"].items())
    return [
        *format_table(("until", "groups/s", "memory"), rows),
        "",
        f"{result['groups']} groups of {result['image_size']} px in {result['shards']} shards: "
        f"{measuring.format_rate(result['images_per_second'])} images/s; busy: {busy}",
        f"last tenth over first {result['last_tenth_over_first']:.2f}, memory {result['memory_last_over_first']:.2f}; "
        f"peak {format_bytes(result['memory_bytes_peak'])}, before the first group "
        f"{format_bytes(result['memory_bytes_before'])}",
        f"{format_bytes(result['tar_bytes'])} of tars, {format_bytes(result['folder_bytes'])} on the disk, "
        f"manifest {format_bytes(result['manifest_bytes'])}",
        steps,
        *measuring.format_machine(result["machine"]),
    ]


main = measuring.Program()


@main.command(help=measuring.as_help(__doc__))
@click.option("--n", type=Count(), default="100k", show_default=True, help="Groups.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to render into, and keep.  [default: a temporary one]"
)
@click.option("--size", type=Count(), default="32", show_default=True, help="Pixels, height and width.")
@click.option("--num-views", type=Count(), default="1", show_default=True, help="Views per group.")
@click.option("--shard-size", type=Count(), default="1000", show_default=True, help="Groups per tar.")
@click.option("--batch-size", type=Count(), default="50", show_default=True, help="Groups per forward pass.")
@click.option("--jobs", type=Count(), default="1", show_default=True, help="Processes that verify.")
@measuring.json_option
def measure(n: int, out: Path | None, jobs: int, as_json: bool, **options: int) -> None:
    machine = measuring.describe_machine(PACKAGES)
    with tempfile.TemporaryDirectory(prefix="scale-render-", dir=out.parent if out else None) as scratch:
        job = make_job(out or Path(scratch) / "dataset", n=n, **options)
        result = {**measure_scale(job, jobs=jobs, quiet=not sys.stderr.isatty() and as_json), "machine": machine}
    measuring.print_result(result, format_report(result), as_json=as_json)


if __name__ == "__main__":
    main()
