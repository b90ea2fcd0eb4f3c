"""Whether a training step takes the same time on ten thousand groups and on a million: it should.

One dataset of the largest size, and its prefixes, in shuffled order; decoded images are not kept, so that every step
reads from the tars whatever their number. Per size, in rounds that take turns:

    reading    groups/s of the tar reader alone, in processes, over ten times the steps
    training   images/s of `contrast train`, and the share of the time that it waits for data

Both begin with shards that are not open yet, as runs do; many shards take a while to be opened, once.

The groups are those of one shard again and again, each shard a file of its own: 8 GB for 1.3M groups of 32 px. They are
read once before, so the figures are those of files that fit the memory; the disk's own speed is not measured.

    python tools/bench_sizes.py
    python tools/bench_sizes.py --sizes 10k,10M --encoder resnet18 --batch-size 512 --device cuda --json
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import Any

import click
import measuring
from bench_train import TrainTask, train_ours
from noise_dataset import write_dataset
from opening import GROUPS_PER_SHARD, repeat_shard

from contrast.config import TrainConfig
from contrast.devices import fastest_precision, resolve_device
from contrast.optimizer import default_settings
from contrast.readers import open_batches
from contrast.run_options import RunOptions
from shards.console import Count, format_table
from shards.dataset import GroupDataset
from shards.markers import tar_path
from shards.quantities import format_count

PACKAGES = ("synthgen", "torch", "numpy", "simplejpeg")


def write_repeated(directory: Path, *, num_groups: int, size: int) -> None:
    """A dataset of whole shards with at least num_groups groups, read once."""
    write_dataset(directory, num_groups=GROUPS_PER_SHARD, size=size, shard_size=GROUPS_PER_SHARD)
    manifest = repeat_shard(directory, -(-num_groups // GROUPS_PER_SHARD), place=shutil.copyfile)
    for shard in manifest.shards:
        tar_path(directory, shard.index).read_bytes()


def read_steps(task: TrainTask) -> float:
    """Groups per second of the tar reader alone, over ten times the steps of a run."""
    options, batch_size = task.options, task.config.batch_size
    batches = open_batches(
        task.dataset,
        reader="tar",
        batch_size=batch_size,
        seed=0,
        num_workers=options.num_workers,
        memory_bytes=options.memory_bytes,
    )
    steps = batches.steps(0, 10 * task.config.steps + 1)
    next(steps)  # the processes have started
    began = time.perf_counter()
    num_read = sum(len(batch.indices) for batch in steps)
    return num_read / (time.perf_counter() - began)


def run_benchmark(tasks: dict[int, TrainTask], *, repeats: int) -> dict[str, Any]:
    """Rates and shares by size, and the smallest rate over the largest of them."""
    machine = measuring.describe_machine(PACKAGES)
    wait_shares: dict[int, list[float]] = defaultdict(list)
    numbers = count()

    def train(size: int) -> float:
        summary = train_ours(tasks[size], tasks[size].scratch / f"run-{next(numbers)}")
        wait_shares[size].append(summary.wait_share)
        return summary.views_per_second

    contestants = {f"reading/{size}": lambda size=size: read_steps(tasks[size]) for size in tasks}
    contestants |= {f"training/{size}": lambda size=size: train(size) for size in tasks}
    rates = measuring.measure_rounds(contestants, repeats=repeats, label="sizes")
    reading, training = ({size: rates[f"{kind}/{size}"] for size in tasks} for kind in ("reading", "training"))
    return {
        "slowest_over_fastest_step": min(training.values()) / max(training.values()),
        "groups_per_second": reading,
        "views_per_second": training,
        "data_wait_share": {size: statistics.median(shares) for size, shares in wait_shares.items()},
        "machine": machine,
    }


main = measuring.Program()


@main.command(help=measuring.as_help(__doc__))
@click.option("--sizes", default="10k,130k,1.3M", show_default=True, help="Numbers of groups.")
@click.option("--size", type=Count(), default="32", show_default=True, help="Pixels, height and width.")
@click.option("--encoder", default="convnet-small", show_default=True, help="As in contrast train.")
@click.option("--batch-size", type=Count(), default="128", show_default=True, help="Groups of a step.")
@click.option("--steps", type=Count(), default="120", show_default=True, help="Steps of a turn.")
@click.option("--workers", type=Count(), default="2", show_default=True, help="Decoding processes.")
@click.option("--threads", type=Count(), help="Threads of a CPU operation.  [default: torch's choice]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, auto.")
@click.option("--repeats", type=Count(), default="3", show_default=True, help="Rounds; rates are their medians.")
@measuring.json_option
def measure(
    sizes: str,
    size: int,
    encoder: str,
    batch_size: int,
    steps: int,
    workers: int,
    threads: int | None,
    device: str,
    repeats: int,
    as_json: bool,
) -> None:
    config = TrainConfig(
        steps=steps,
        encoder=encoder,
        batch_size=batch_size,
        precision=fastest_precision(resolve_device(device)),
        **default_settings("simclr", "adamw", batch_size=batch_size),
    )
    options = RunOptions(device=device, num_threads=threads, num_workers=workers, memory_bytes=0, quiet=True)
    lengths = sorted({Count().convert(word.strip(), None, None) for word in sizes.split(",")})
    with tempfile.TemporaryDirectory(prefix="bench-sizes-") as name:
        directory = Path(name) / "dataset"
        write_repeated(directory, num_groups=lengths[-1], size=size)
        tasks = {
            length: TrainTask(
                config=config,
                dataset=GroupDataset(directory, n=length),
                options=options,
                scratch=Path(name),
            )
            for length in lengths
        }
        result = run_benchmark(tasks, repeats=repeats)
    result |= {"config": config.to_json(), "size": size, "workers": workers, "repeats": repeats}
    measuring.print_result(result, format_report(result), as_json=as_json)


def format_report(result: dict[str, Any]) -> list[str]:
    """The table and what belongs under it."""
    config, machine = result["config"], measuring.format_machine(result["machine"])
    rows = [
        (
            format_count(length),
            measuring.format_rate(rate),
            measuring.format_rate(result["views_per_second"][length]),
            f"{result['data_wait_share'][length]:.1%}",
        )
        for length, rate in result["groups_per_second"].items()
    ]
    return [
        f"{config['encoder']}, {result['size']} px, steps of {config['batch_size']} groups, {config['precision']}, "
        f"{result['workers']} decoding processes",
        "",
        *format_table(("groups", "reading, groups/s", "training, images/s", "waiting"), rows),
        "",
        f"slowest step over fastest: {result['slowest_over_fastest_step']:.3f}",
        f"medians of {result['repeats']} rounds; {machine[0]}",
        machine[1],
    ]


if __name__ == "__main__":
    main()
