"""How much of the generator's own speed arrives on the disk, and how much faster that is than the loop people write.

Three rates from one run, in rounds that take turns:

    bare         the folded generator's forward passes alone, on latents that are there already
    end to end   `synthgen render` into a folder: draws, forward passes, JPEG, tars, checksums, flush to the disk
    naive        the published package's own example as a loop: float32, batches of 32, one thread, a PNG per image

Bare and end to end have the same network, batch, dtype, memory layout and number of forward threads. Loading the
weights and compiling, which happen once per job whatever its length, are timed apart. The arithmetic limit is a large
matrix product in the same dtype on the same device and threads, measured in the same rounds.

    python tools/bench_render.py --random-weights
    python tools/bench_render.py --compile                               # bare passes and render both compiled
    taskset -c 0 python tools/bench_render.py --images 1000 --json       # on one core
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import measuring
import torch
from generator_choice import chosen_weights, generator_options
from naive_render import NAIVE_BATCH, Naive, load_published_module

from shards.console import Count, format_table
from shards.folder import lock_dataset
from shards.markers import scan_markers
from shards.quantities import format_bytes
from synthgen.adapters.architecture import count_flops
from synthgen.adapters.compiling import compile_passes
from synthgen.adapters.weight_files import require_weights
from synthgen.arithmetic import reproducible_arithmetic, set_forward_threads
from synthgen.config import RenderConfig
from synthgen.devices import choose_device, count_encode_threads, count_forward_threads
from synthgen.job import RenderJob, prepare_job, survey_folder
from synthgen.plan import draw_groups
from synthgen.runners.local import run_local

SECONDS_OF_A_RUN = {"cpu": 10, "cuda": 20}
"""Of bare forward passes: the end of a render, up to a second however long it is, must not decide a ratio."""
MOST_NAIVE_IMAGES = 2_000
PACKAGES = ("synthgen", "torch", "numpy", "simplejpeg", "pillow", "pytorch-pretrained-biggan")


# ---------------------------------------------------------------------------------------------------------------------
# Contestants: each returns a rate


def forward_threads(device: torch.device) -> ThreadPoolExecutor:
    """As many threads as `synthgen render` has for forward passes."""
    return ThreadPoolExecutor(count_forward_threads(device), "forward", set_forward_threads)


def time_work(pool: ThreadPoolExecutor, device: torch.device, work: Callable[[int], object], count: int) -> float:
    """Seconds for work(0) … work(count - 1) in the pool's threads, each of which has worked once before."""
    threads = range(count_forward_threads(device))  # cuDNN chooses its kernels anew in every thread
    wait([pool.submit(work, index) for index in threads])
    _synchronize(device)
    began = time.perf_counter()
    for task in wait([pool.submit(work, index) for index in range(count)]).done:
        task.result()
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Limit:
    """FLOP/s of square matrix products, one per forward thread: what the arithmetic units give at their best."""

    def __init__(self, job: RenderJob) -> None:
        self._device = job.device
        self._width = 8192 if job.device.type == "cuda" else 2048
        self._count = 1024 if job.device.type == "cuda" else 2 * count_forward_threads(job.device)  # a second or two
        dtype = getattr(torch, job.render.dtype)
        self._factors = torch.randn(2, self._width, self._width).to(job.device, dtype)

    @torch.inference_mode()
    def __call__(self) -> float:
        def multiply(index: int) -> None:  # results are dropped at once: kept, they would fill a GPU
            torch.mm(self._factors[0], self._factors[1])

        with reproducible_arithmetic(self._device), forward_threads(self._device) as pool:
            seconds = time_work(pool, self._device, multiply, self._count)
        return 2 * self._width**3 * self._count / seconds


class Bare:
    """Images/s of the generator's forward passes, in as many batches as `images` fill."""

    def __init__(self, job: RenderJob, *, images: int) -> None:
        self._job, self._count = job, images // job.render.batch_size
        draws = draw_groups(job.recipe, latent_dim=job.generator.latent_dim, first=0, count=job.render.batch_size)
        self._latents, self._labels = draws.inputs(job.device)

    def __call__(self) -> float:
        def forward(index: int) -> None:
            self._job.generator.sample(self._latents[index % len(self._latents)], self._labels)

        with reproducible_arithmetic(self._job.device), forward_threads(self._job.device) as pool:
            seconds = time_work(pool, self._job.device, forward, self._count)
        return self._count * self._job.render.batch_size / seconds


def enough_images(job: RenderJob) -> int:
    """Images whose bare forward passes take SECONDS_OF_A_RUN."""
    passes = (100 if job.device.type == "cuda" else 4) * count_forward_threads(job.device)
    return round(Bare(job, images=passes * job.render.batch_size)() * SECONDS_OF_A_RUN[job.device.type])


class EndToEnd:
    """Images/s of `synthgen render` with the generator loaded, each time into a new folder, up to the manifest."""

    def __init__(self, job: RenderJob, config: RenderConfig, folder: Path) -> None:
        self._job, self._config, self._folder = job, config, folder
        self.total_bytes = 0
        self.busy: dict[str, list[float]] = {}

    def __call__(self) -> float:
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            job = replace(self._job, directory=Path(name) / "dataset")
            began = time.perf_counter()
            with lock_dataset(job.directory) as lock:
                manifest = run_local(job, self._config, survey_folder(job), lock=lock, quiet=True)
            assert manifest is not None  # there are no other tasks
            seconds = time.perf_counter() - began
            self.total_bytes = manifest.total_bytes
            self._note_busy(job.directory, seconds)
        return manifest.num_groups * manifest.num_images / seconds

    def busy_shares(self) -> dict[str, float]:
        """Share of the run in which each stage's threads were busy, from the shards' markers; median over the runs."""
        return {stage: round(statistics.median(shares), 4) for stage, shares in self.busy.items()}

    def _note_busy(self, directory: Path, seconds: float) -> None:
        forward = count_forward_threads(self._job.device)
        threads = {"draw": forward, "generate": forward, "encode": count_encode_threads(self._job.device), "write": 1}
        markers = scan_markers(directory).values()
        for stage, num_threads in threads.items():
            busy = sum(marker.stages[stage] for marker in markers)
            self.busy.setdefault(stage, []).append(busy / num_threads / seconds)


# ---------------------------------------------------------------------------------------------------------------------
# Program

main = measuring.Program()


@main.command(help=measuring.as_help(__doc__))
@generator_options
@click.option("--images", type=Count(), help="Images of a run.  [default: 10 s of bare passes; GPU: 20 s]")
@click.option(
    "--naive-images", type=Count(), help="Images of a run of the naive loop.  [default: an eighth, 2k at most]"
)
@click.option("--batch-size", type=Count(), help="Images per forward pass.  [default: as synthgen render]")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16.")
@click.option("--compile", is_flag=True, help="Compiled passes, as synthgen render --compile.")
@click.option("--repeats", type=Count(), default="3", show_default=True, help="Rounds; rates are their medians.")
@measuring.json_option
def measure(
    generator: str, weights: Path | None, random_weights: bool, naive_images: int | None, as_json: bool, **options: Any
) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-render-") as name:
        folder = Path(name)
        weights = chosen_weights(generator, weights, random_weights, folder)
        result = run_benchmark(generator, weights, folder, naive_images=naive_images, **options)
    result["weights"] = "random" if random_weights else str(weights or "default")
    measuring.print_result(result, format_report(result), as_json=as_json)


def run_benchmark(
    name: str,
    weights: Path | None,
    folder: Path,
    *,
    images: int | None,
    naive_images: int | None,
    batch_size: int | None,
    dtype: str,
    device: str,
    repeats: int,
    compile: bool = False,
) -> dict[str, Any]:
    """The rounds, and everything that the table says."""
    place = choose_device(device)
    gpu = torch.cuda.get_device_name(place) if place.type == "cuda" else None
    machine = measuring.describe_machine(PACKAGES, gpu=gpu)
    began = time.perf_counter()
    config = RenderConfig(
        n=1,
        out=folder / "none",
        generator=name,
        weights=weights,
        batch_size=batch_size,
        dtype=dtype,
        compile=compile,
        devices=str(place),
    )
    job = prepare_job(config)
    batch = job.render.batch_size
    if compile:
        job = replace(job, generator=compile_passes(job.generator, batch_size=batch, device=place))
    load_seconds = time.perf_counter() - began
    images = images or enough_images(job)
    job = replace(job, num_groups=-(-images // (2 * batch)) * batch)  # an anchor and a view each, in whole batches
    images = 2 * job.num_groups
    naive_images = -(-(naive_images or min(images // 8, MOST_NAIVE_IMAGES) or 1) // NAIVE_BATCH) * NAIVE_BATCH

    end_to_end = EndToEnd(job, config, folder)
    network = load_published_module(name, weights).to(place)
    naive = Naive(network, folder, images=naive_images)
    limit, bare = Limit(job), Bare(job, images=images)
    short = EndToEnd(replace(job, num_groups=batch), config, folder), Naive(network, folder, images=NAIVE_BATCH)
    for warm_up in (limit, bare, *short):
        warm_up()
    contestants = {"limit": limit, "bare": bare, "end to end": end_to_end, "naive": naive}
    rates = measuring.measure_rounds(contestants, repeats=repeats, label="rendering")

    flops = count_flops(require_weights(name, weights).config)
    return {
        "end_to_end_over_bare": rates["end to end"] / rates["bare"],
        "end_to_end_over_naive": rates["end to end"] / rates["naive"],
        "images_per_second": rates["end to end"],
        "bare_images_per_second": rates["bare"],
        "naive_images_per_second": rates["naive"],
        "flops_per_image": flops,
        "limit_flops_per_second": rates["limit"],
        "bare_share_of_limit": rates["bare"] * flops / rates["limit"],
        "end_to_end_share_of_limit": rates["end to end"] * flops / rates["limit"],
        "busy_shares": end_to_end.busy_shares(),
        "bytes_written": end_to_end.total_bytes,
        "naive_bytes_per_image": naive.file_bytes,
        "load_seconds": load_seconds,
        "generator": name,
        "device": str(place),
        "dtype": job.render.dtype,
        "compiled": compile,
        "memory_layout": "channels_last",
        "batch_size": batch,
        "forward_threads": count_forward_threads(place),
        "encode_threads": count_encode_threads(place),
        "images": images,
        "naive_images": naive_images,
        "repeats": repeats,
        "machine": machine,
    }


def format_report(result: dict[str, Any]) -> list[str]:
    """The table and what belongs under it."""
    rows = []
    for title, key, share in (
        ("bare forward", "bare_images_per_second", result["bare_share_of_limit"]),
        ("end to end", "images_per_second", result["end_to_end_share_of_limit"]),
        ("naive loop", "naive_images_per_second", None),
    ):
        ours = result["images_per_second"] / result[key]
        count = result["naive_images"] if share is None else result["images"]
        percent = "" if share is None else f"{share:.1%}"
        rows.append((title, measuring.format_rate(result[key]), f"{ours:.3f}", percent, f"{count}"))
    busy = ", ".join(f"{stage} {share:.1%}" for stage, share in result["busy_shares"].items())
    return [
        f"{result['generator']}, {result['weights']} weights, on {result['device']} in {result['dtype']}, "
        f"batch {result['batch_size']}, {result['memory_layout']}, {'compiled' if result['compiled'] else 'plain'} "
        f"passes, {result['forward_threads']} forward threads; naive: float32, batch {NAIVE_BATCH}, 1 thread",
        "",
        *format_table(("", "images/s", "end to end over it", "of limit", "images"), rows),
        "",
        f"{result['flops_per_image'] / 1e6:.0f} MFLOP an image; limit {result['limit_flops_per_second'] / 1e9:.0f} "
        f"GFLOP/s, a matrix product in {result['dtype']} on the same threads",
        f"busy: {busy}",
        f"{format_bytes(result['bytes_written'])} of tars written, "
        f"{result['bytes_written'] / result['images']:.0f} bytes an image (naive: "
        f"{result['naive_bytes_per_image']:.0f}); {'loading and compiling' if result['compiled'] else 'loading'} took "
        f"{result['load_seconds']:.1f} s, not counted",
        f"medians of {result['repeats']} rounds; {measuring.format_machine(result['machine'])[0]}",
        measuring.format_machine(result["machine"])[1],
    ]


if __name__ == "__main__":
    main()
