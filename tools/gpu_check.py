"""All that a new machine, above all a GPU, has to show before its renders are trusted, in one command.

Small datasets are rendered, samples of them are rendered again, and the speed is measured:

    again         the same device and dtype: bytes must be identical
    float32       what the device's own dtype did to the pixels
    cpu           the same dtype on the CPU: how far the two devices are apart
    float32, cpu  float32 on both
    compiled      compiled passes, compiled anew: bytes must be identical
    plain         what compiling them did to the pixels
    speed         tools/bench_render.py, with its options

What the CPU renders again was rendered in batches that do not take it minutes. A line is said of each as it ends.

    python tools/gpu_check.py --json > gpu.json
    python tools/gpu_check.py --generator biggan-deep-128 --random-weights --images 5k

The two of compiled passes are left out where the passes cannot be compiled, which the report says, and with
--no-compile. Exit code 1 when `again` or `compiled` is not identical, or another one not close.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from bench_render import format_report as format_speed
from bench_render import run_benchmark
from generator_choice import chosen_weights, generator_options
from measuring import Program, as_help, json_option, print_result

import synthgen
from shards.console import Count, format_table
from shards.errors import DamageError
from synthgen.devices import choose_device, describe_environment
from synthgen.verification import RenderVerification

CPU_BATCH_SIZE = 8
MUST_BE_IDENTICAL = ("again", "compiled")


def check_device(
    generator: str,
    weights: Path | None,
    folder: Path,
    *,
    device: str,
    groups: int,
    cpu_groups: int,
    sample: int,
    compile: bool,
) -> tuple[dict[str, RenderVerification], str | None]:
    """Renders the datasets into the folder; the comparisons, by name, and why compiled passes have none.

    Args:
        groups: of the dataset that the device renders again.
        sample: groups to render again on the device.
        cpu_groups: groups to render again on the CPU.
        compile: whether to compare compiled passes, too.
    """
    request: dict[str, Any] = {"generator": generator, "weights": weights, "devices": device, "quiet": True}
    for_cpu = {**request, "n": cpu_groups, "batch_size": min(cpu_groups, CPU_BATCH_SIZE)}
    synthgen.render(n=groups, out=folder / "own", **request)
    synthgen.render(out=folder / "few", **for_cpu)
    synthgen.render(out=folder / "float32", dtype="float32", **for_cpu)
    reports = {}

    def compare(name: str, dataset: str, **options: Any) -> None:
        reports[name] = synthgen.verify_render(folder / dataset, weights=weights, **options)
        click.echo(f"{name}: {reports[name].sameness.describe()}", err=True)

    compare("again", "own", groups=sample, device=device)
    compare("float32", "own", groups=sample, device=device, dtype="float32")
    compare("cpu", "few", groups=cpu_groups, device="cpu")
    compare("float32, cpu", "float32", groups=cpu_groups, device="cpu")
    if not compile:
        return reports, "not asked for"
    try:
        synthgen.render(n=groups, out=folder / "compiled", compile=True, **request)
    except ValueError as error:
        click.echo(f"compiled: {error}", err=True)
        return reports, str(error)
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        compare("compiled", "compiled", groups=sample, device=device)
        compare("plain", "compiled", groups=sample, device=device, compile=False)
    return reports, None


def format_report(result: dict[str, Any]) -> list[str]:
    """The comparisons as a table, and the benchmark's own report."""
    rows = []
    for name, report in result["comparisons"].items():
        same = report["sameness"]
        found = "identical" if same["identical"] else "close" if same["close"] else "NOT CLOSE"
        differences = f"{same['mean']:.3f}", f"{same['p99']}", f"{same['max']}", f"{same['worst_image_mean']:.2f}"
        rows.append((name, f"{same['identical_groups']}/{same['groups']}", *differences, found))
    environment = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    return [
        *format_table(("rendered again", "identical", "mean", "p99", "max", "worst image", ""), rows),
        "differences of stored pixels, in levels of 255",
        *([f"compiled passes: {result['not_compiled']}"] if result["not_compiled"] else []),
        f"environment: {environment}",
        "",
        *format_speed(result["speed"]),
    ]


main = Program()


@main.command(help=as_help(__doc__))
@generator_options
@click.option("--groups", type=Count(), default="1k", show_default=True, help="Groups that the device renders.")
@click.option("--sample", type=Count(), default="64", show_default=True, help="Groups to render again on the device.")
@click.option("--cpu-groups", type=Count(), default="8", show_default=True, help="Groups to render again on the CPU.")
@click.option("--compile/--no-compile", default=True, show_default=True, help="Compare compiled passes, too.")
@click.option("--images", type=Count(), help="As in bench_render.py.")
@click.option("--naive-images", type=Count(), help="As in bench_render.py.")
@click.option("--repeats", type=Count(), default="3", show_default=True, help="As in bench_render.py.")
@json_option
def measure(
    generator: str,
    weights: Path | None,
    random_weights: bool,
    device: str,
    images: int | None,
    naive_images: int | None,
    repeats: int,
    as_json: bool,
    compile: bool,
    **counts: int,
) -> None:
    place = choose_device(device)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        weights = chosen_weights(generator, weights, random_weights, folder)
        reports, not_compiled = check_device(generator, weights, folder, device=str(place), compile=compile, **counts)
        speed = run_benchmark(
            generator,
            weights,
            folder,
            images=images,
            naive_images=naive_images,
            batch_size=None,
            dtype="auto",
            device=str(place),
            repeats=repeats,
        )
    wrong = [
        name
        for name, report in reports.items()
        if not report.ok or (name in MUST_BE_IDENTICAL and not report.sameness.identical)
    ]
    speed["weights"] = "random" if random_weights else str(weights or "default")
    result = {
        "ok": not wrong,
        "environment": describe_environment(place, compiled=not_compiled is None),
        "not_compiled": not_compiled,
        "comparisons": {name: report.to_json() for name, report in reports.items()},
        "speed": speed,
    }
    print_result(result, format_report(result), as_json=as_json)
    if wrong:
        found = reports[wrong[0]].sameness.describe()
        raise DamageError(f"renders of {place} cannot be relied on ({wrong[0]}): {found}")


if __name__ == "__main__":
    main()
