"""Whether torch.compile, with or without CUDA graphs, makes the forward passes faster, and what it does to pixels.

    eager        the passes of `synthgen render`
    compiled     those of `synthgen render --compile`
    graphs       the compiled ones captured as one CUDA graph; on a GPU

All have the same weights, batch, dtype, layout and number of forward threads, and take turns. The first pass, which
compiles, is timed apart: a job would pay it in every process. Pixels are compared with those of the eager passes. A
form that does not run on this machine is left out, and the report says why.

    python tools/bench_compile.py
    python tools/bench_compile.py --generator biggan-deep-128 --random-weights --json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import measuring
import torch
from bench_render import PACKAGES, forward_threads, time_work
from generator_choice import chosen_weights, generator_options
from torch import Tensor

from shards.console import Count, format_table
from shards.errors import describe_error
from synthgen.adapters.compiling import compile_passes
from synthgen.adapters.pixels import to_pixels
from synthgen.arithmetic import reproducible_arithmetic
from synthgen.config import RenderConfig
from synthgen.devices import choose_device
from synthgen.job import RenderJob, prepare_job
from synthgen.plan import draw_groups

FORMS = ("eager", "compiled", "graphs")


class Passes:
    """Images/s of forward passes in one form, after a first pass that is timed apart."""

    def __init__(self, job: RenderJob, form: str, *, images: int) -> None:
        batch = job.render.batch_size
        self._device, self._count, self._batch = job.device, max(1, images // batch), batch
        draws = draw_groups(job.recipe, latent_dim=job.generator.latent_dim, first=0, count=batch)
        latents, self._labels = draws.inputs(job.device)
        self._latents = latents[0]
        began = time.perf_counter()
        generator = job.generator
        if form != "eager":
            generator = compile_passes(generator, batch_size=batch, device=job.device)
        self._generator = generator
        self._run: Callable[[], Tensor] = self._pass
        self._pool = forward_threads(job.device)  # for good: a thread looks at what was compiled, and has its stream
        with reproducible_arithmetic(self._device):
            if form == "graphs":
                self._run = self._pool.submit(self._capture).result()
            self._pool.submit(self._run).result()
        self.first_pass_seconds = time.perf_counter() - began
        self()  # the first passes of a thread are slower
        with reproducible_arithmetic(self._device):
            self.pixels = self._pool.submit(self._run).result().cpu().numpy().astype(int)

    def __call__(self) -> float:
        def run(index: int) -> None:  # results are dropped at once: kept, they would fill a GPU
            self._run()

        with reproducible_arithmetic(self._device):
            seconds = time_work(self._pool, self._device, run, self._count)
        return self._count * self._batch / seconds

    @torch.inference_mode()
    def _pass(self) -> Tensor:
        return to_pixels(self._generator.sample(self._latents, self._labels))

    @torch.inference_mode()
    def _capture(self) -> Callable[[], Tensor]:
        """Captures one pass; replayed, it writes to the same pixels again. As torch's documentation does it."""
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(3):  # kernels are chosen and scratch is taken outside the graph
                    self._pass()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                pixels = self._pass()

        def replay() -> Tensor:
            with torch.cuda.device(self._device):
                graph.replay()
            return pixels

        return replay


main = measuring.Program()


@main.command(help=measuring.as_help(__doc__))
@generator_options
@click.option("--images", type=Count(), help="Images of a run, in whole batches.  [default: 1k; GPU: 20k]")
@click.option("--batch-size", type=Count(), help="Images per forward pass.  [default: as synthgen render]")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, bfloat16.")
@click.option("--repeats", type=Count(), default="3", show_default=True, help="Rounds; rates are their medians.")
@measuring.json_option
def measure(
    generator: str, weights: Path | None, random_weights: bool, repeats: int, as_json: bool, **options: Any
) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-compile-") as name:
        weights = chosen_weights(generator, weights, random_weights, Path(name))
        result = run_benchmark(generator, weights, repeats=repeats, **options)
    result["weights"] = "random" if random_weights else str(weights or "default")
    measuring.print_result(result, format_report(result), as_json=as_json)


def run_benchmark(
    name: str,
    weights: Path | None,
    *,
    images: int | None,
    batch_size: int | None,
    dtype: str,
    device: str,
    repeats: int,
) -> dict[str, Any]:
    """The rounds, and how far the pixels are apart."""
    place = str(choose_device(device))
    config = RenderConfig(
        n=1, out=Path("none"), generator=name, weights=weights, batch_size=batch_size, dtype=dtype, devices=place
    )
    job = prepare_job(config)
    on_gpu = job.device.type == "cuda"
    machine = measuring.describe_machine(PACKAGES, gpu=torch.cuda.get_device_name(job.device) if on_gpu else None)
    forms = [form for form in FORMS if form != "graphs" or on_gpu]
    contestants, missing = {}, {}
    for form in forms:
        try:
            contestants[form] = Passes(job, form, images=images or (20_000 if on_gpu else 1_000))
        except (RuntimeError, ValueError) as error:
            if form == "eager":
                raise
            missing[form] = describe_error(error)
    rates = measuring.measure_rounds(contestants, repeats=repeats, label="passing forward")
    rows = {}
    for form, passes in contestants.items():
        apart = abs(passes.pixels - contestants["eager"].pixels)
        rows[form] = {
            "images_per_second": rates[form],
            "over_eager": rates[form] / rates["eager"],
            "first_pass_seconds": passes.first_pass_seconds,
            "levels_apart_mean": float(apart.mean()),
            "levels_apart_most": int(apart.max()),
        }
    return {
        "forms": rows,
        "missing": missing,
        "generator": name,
        "device": str(job.device),
        "dtype": job.render.dtype,
        "batch_size": job.render.batch_size,
        "repeats": repeats,
        "machine": machine,
    }


def format_report(result: dict[str, Any]) -> list[str]:
    """The table and what belongs under it."""
    rows = [
        (
            form,
            measuring.format_rate(row["images_per_second"]),
            f"{row['over_eager']:.3f}",
            f"{row['first_pass_seconds']:.1f} s",
            f"{row['levels_apart_mean']:.2f}",
            f"{row['levels_apart_most']}",
        )
        for form, row in result["forms"].items()
    ]
    return [
        f"{result['generator']}, {result['weights']} weights, on {result['device']} in {result['dtype']}, "
        f"batch {result['batch_size']}",
        "",
        *format_table(("", "images/s", "over eager", "first pass", "pixels apart, mean of 255", "at most"), rows),
        *(f"{form} passes do not run here: {said}" for form, said in result["missing"].items()),
        "",
        f"medians of {result['repeats']} rounds; {measuring.format_machine(result['machine'])[0]}",
        measuring.format_machine(result["machine"])[1],
    ]


if __name__ == "__main__":
    main()
