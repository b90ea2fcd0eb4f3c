"""All that a new machine, above all a GPU, has to show before its renders are trusted, in one command.

Small datasets are rendered, samples of them are rendered again, and the speed is measured:

    again         the same device and dtype: bytes must be identical
    float32       what the device's own dtype did to the pixels
    cpu           the same dtype on the CPU: how far the two devices are apart
    float32, cpu  float32 on both
    speed         tools/bench_render.py, with its options

What the CPU renders again was rendered in batches that do not take it minutes. A line is said of each as it ends.

    python tools/gpu_check.py --json > gpu.json
    python tools/gpu_check.py --generator biggan-deep-128 --random-weights --images 5k

Exit code 1 when the first is not identical, or another one not close.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from bench_render import chosen_weights, generator_options, run_benchmark
from bench_render import format_report as format_speed
from measuring import Program, format_table, print_result

import synthgen
from shards.console import Count, DamageError
from synthgen.devices import choose_device, describe_environment
from synthgen.verification import RenderVerification

CPU_BATCH_SIZE = 8


def check_device(
    generator: str, weights: Path | None, folder: Path, *, device: str, groups: int, cpu_groups: int, sample: int
) -> dict[str, RenderVerification]:
    """Renders the datasets into the folder and returns the four comparisons, by name.

    Args:
        groups: of the dataset that the device renders again.
        sample: groups to render again on the device.
        cpu_groups: groups to render again on the CPU.
    """
    request: dict[str, Any] = {"generator": generator, "weights": weights, "devices": device, "quiet": True}
    for_cpu = {**request, "n": cpu_groups, "batch_size": min(cpu_groups, CPU_BATCH_SIZE)}
    synthgen.render(n=groups, out=folder / "own", **request)
    synthgen.render(out=folder / "few", **for_cpu)
    synthgen.render(out=folder / "float32", dtype="float32", **for_cpu)
    reports = {}
    for name, dataset, count, where, dtype in (
        ("again", "own", sample, device, "same"),
        ("float32", "own", sample, device, "float32"),
        ("cpu", "few", cpu_groups, "cpu", "same"),
        ("float32, cpu", "float32", cpu_groups, "cpu", "same"),
    ):
        reports[name] = synthgen.verify_render(
            folder / dataset, groups=count, device=where, dtype=dtype, weights=weights
        )
        click.echo(f"{name}: {reports[name].sameness.describe()}", err=True)
    return reports


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
        f"environment: {environment}",
        "",
        *format_speed(result["speed"]),
    ]


main = Program()


@main.command(help=(__doc__ or "").replace("\n\n    ", "\n\n\b\n    "))
@generator_options
@click.option("--groups", type=Count(), default="1k", show_default=True, help="Groups that the device renders.")
@click.option("--sample", type=Count(), default="64", show_default=True, help="Groups to render again on the device.")
@click.option("--cpu-groups", type=Count(), default="8", show_default=True, help="Groups to render again on the CPU.")
@click.option("--images", type=Count(), help="As in bench_render.py.")
@click.option("--naive-images", type=Count(), help="As in bench_render.py.")
@click.option("--repeats", type=Count(), default="3", show_default=True, help="As in bench_render.py.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, in place of the tables.")
def measure(
    generator: str,
    weights: Path | None,
    random_weights: bool,
    device: str,
    images: int | None,
    naive_images: int | None,
    repeats: int,
    as_json: bool,
    **counts: int,
) -> None:
    place = choose_device(device)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        weights = chosen_weights(generator, weights, random_weights, folder)
        reports = check_device(generator, weights, folder, device=str(place), **counts)
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
    speed["weights"] = "random" if random_weights else str(weights or "default")
    result = {
        "ok": reports["again"].sameness.identical and all(report.ok for report in reports.values()),
        "environment": describe_environment(place),
        "comparisons": {name: report.to_json() for name, report in reports.items()},
        "speed": speed,
    }
    print_result(result, format_report(result), as_json=as_json)
    if not result["ok"]:
        wrong = next(name for name, report in reports.items() if not report.ok or name == "again")
        raise DamageError(f"renders of {place} cannot be relied on ({wrong}): {reports[wrong].sameness.describe()}")


if __name__ == "__main__":
    main()
