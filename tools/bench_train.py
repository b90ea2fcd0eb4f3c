"""How much of a training step is the step: the loop as it is, on a batch in memory, and beside lightly's SimCLR.

Three rates from one run, in rounds that take turns, all in images trained on per second:

    ours       `contrast train`: read, augment, forward, loss, backward, update, record, checkpoint
    resident   the same loop on one batch that lies decoded in memory, so that nothing is read
    lightly    lightly's SimCLR loop: loose files, PIL, its transforms in a DataLoader, its head and loss

All have the same encoder, optimiser, batch, number format, threads and strength of augmentation. lightly sees two
augmentations of each anchor, ours an anchor and its view, so both train on two images per group.

    python tools/bench_train.py
    python tools/bench_train.py --shards datasets/big --encoder resnet18 --batch-size 512 --device cuda --json
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import click
import measuring
import torch
from bench_load import write_dataset

from contrast.assembly import find_facts
from contrast.batches import GroupBatch, GroupBatches
from contrast.config import TrainConfig
from contrast.devices import fastest_precision, in_precision, resolve_device
from contrast.distributed import Place
from contrast.encoders import to_encoder_layout
from contrast.network import TrainedNetwork
from contrast.objectives import build_objective
from contrast.optimizer import build_optimizer, default_settings
from contrast.orders import ShuffledOrder
from contrast.run_folder import RunRecord
from contrast.run_options import RunOptions, TrainSummary
from contrast.trained_on import describe_groups
from contrast.training import run_steps, train_encoder
from shards.console import Count, format_table
from shards.dataset import GroupDataset

PACKAGES = ("synthgen", "torch", "torchvision", "lightly", "pillow")
OWN_GROUPS, OWN_SIZE = 4000, 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTask:
    """What all contestants train."""

    config: TrainConfig
    dataset: GroupDataset
    options: RunOptions
    scratch: Path

    @property
    def device(self) -> torch.device:
        """Where they train."""
        return resolve_device(self.options.device)


class Resident:
    """One decoded batch, given for every step."""

    def __init__(self, batch: GroupBatch) -> None:
        self.steps_per_epoch = 1
        self._batch = batch

    def steps(self, first: int, last: int) -> Generator[GroupBatch, None, None]:
        """The batch, under the numbers of the steps."""
        for step in range(first, last):
            yield dataclasses.replace(self._batch, step=step)


def train_ours(task: TrainTask, run: Path) -> TrainSummary:
    """The loop as `contrast train` runs it."""
    return train_encoder(task.config, shards=task.dataset.directory, out=run, n=len(task.dataset), options=task.options)


def train_resident(task: TrainTask, run: Path) -> TrainSummary:
    """The same loop without reading."""
    batches = GroupBatches(task.dataset, ShuffledOrder(len(task.dataset), batch_size=task.config.batch_size, seed=0))
    run.mkdir()
    place = Place(rank=0, world_size=1, device=task.device)
    trained_on = describe_groups(task.config, task.dataset, None, num_processes=1)
    record = RunRecord(config=task.config, trained_on=trained_on)
    objective = build_objective(task.config, find_facts(task.dataset, with_latents=False))
    return run_steps(record, objective, Resident(batches.load(0)), run, place, task.options)


def write_loose_anchors(task: TrainTask) -> Path:
    """The anchors as files of their own, as lightly reads them."""
    loose = task.scratch / "loose"
    loose.mkdir()
    extension = task.dataset.manifest.recipe.image["format"]
    for index in range(len(task.dataset)):
        (loose / f"{index:09d}.{extension}").write_bytes(task.dataset.read(index, f"anchor.{extension}"))
    return loose


def train_lightly(task: TrainTask, loose: Path) -> float:
    """Images per second of lightly's loop, with its defaults where ours has no other choice."""
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from torch.utils.data import DataLoader

    config, device = task.config, task.device
    transform = SimCLRTransform(
        input_size=task.dataset.image_size, cj_strength=0.5, min_scale=0.2, gaussian_blur=0.0, normalize=None
    )  # brightness, contrast, saturation 0.4 and hue 0.1, as ours
    loader = DataLoader(
        LightlyDataset(str(loose), transform=transform),
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=task.options.num_workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )
    torch.manual_seed(0)
    objective = build_objective(config, find_facts(task.dataset, with_latents=False))
    network = TrainedNetwork(config, image_size=task.dataset.image_size, objective=objective)
    network.head = SimCLRProjectionHead(network.encoder.feature_dim, config.head_hidden_dim, config.head_dim)
    network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    criterion = NTXentLoss(temperature=config.temperature)
    optimizer = build_optimizer(config, network)
    batches = itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), config.steps)

    began = time.perf_counter()
    for (first, second), *_ in batches:
        images = to_encoder_layout(torch.cat([first, second]).to(device, non_blocking=True))
        with in_precision(config.precision, device):
            projections = network(images)
        loss = criterion(*projections.float().chunk(2))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return config.steps * 2 * config.batch_size / (time.perf_counter() - began)


def run_benchmark(task: TrainTask, *, repeats: int) -> dict[str, Any]:
    """Rates and ratios; what could not be measured is None, with a note."""
    device = task.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    machine = measuring.describe_machine(PACKAGES, gpu=gpu)
    notes: dict[str, str] = {}
    wait_shares: list[float] = []
    folders = (task.scratch / f"run-{number}" for number in itertools.count())

    def ours() -> float:
        summary = train_ours(task, next(folders))
        wait_shares.append(summary.wait_share)
        return summary.views_per_second

    contestants: dict[str, Callable[[], float]] = {
        "ours": ours,
        "resident": lambda: train_resident(task, next(folders)).views_per_second,
    }
    try:
        import lightly  # noqa: F401

        loose = write_loose_anchors(task)
        contestants["lightly"] = lambda: train_lightly(task, loose)
    except ImportError as error:
        notes["lightly"] = f"{error.name} is not installed: pip install -e '.[bench]' in the clone"
    for warm_up in contestants.values():  # kernels are chosen, and compiled where asked
        warm_up()
    wait_shares.clear()
    rates = measuring.measure_rounds(contestants, repeats=repeats, label="training")
    return {
        "step_over_resident": rates["ours"] / rates["resident"],
        "step_over_lightly": rates["ours"] / rates["lightly"] if "lightly" in rates else None,
        "data_wait_share": statistics.median(wait_shares),
        "views_per_second": {name: rates.get(name) for name in ("ours", "resident", "lightly")},
        "notes": notes,
        "groups": len(task.dataset),
        "size": task.dataset.image_size,
        "config": task.config.to_json(),
        "workers": task.options.num_workers,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "repeats": repeats,
        "machine": machine,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Program

main = measuring.Program()


@main.command(help=measuring.as_help(__doc__))
@click.option("--shards", "directory", type=click.Path(path_type=Path), help="A dataset to train on.")
@click.option("--groups", type=Count(), help="Groups to train on.  [default: all; without --shards 4k]")
@click.option("--encoder", default="convnet-small", show_default=True, help="As in contrast train.")
@click.option("--batch-size", type=Count(), default="128", show_default=True, help="Groups of a step.")
@click.option("--steps", type=Count(), help="Steps of a contestant's turn.  [default: 60; GPU: 2k]")
@click.option("--workers", type=Count(), default="2", show_default=True, help="Decoding processes; lightly's too.")
@click.option("--threads", type=Count(), help="Threads of a CPU operation.  [default: torch's choice]")
@click.option("--compile", is_flag=True, help="As in contrast train.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, auto.")
@click.option("--repeats", type=Count(), default="3", show_default=True, help="Rounds; rates are their medians.")
@measuring.json_option
def measure(
    directory: Path | None,
    groups: int | None,
    encoder: str,
    batch_size: int,
    steps: int | None,
    workers: int,
    threads: int | None,
    compile: bool,
    device: str,
    repeats: int,
    as_json: bool,
) -> None:
    on_gpu = resolve_device(device).type == "cuda"
    config = TrainConfig(
        steps=steps or (2_000 if on_gpu else 60),  # starting the decoding processes takes a second
        encoder=encoder,
        batch_size=batch_size,
        precision=fastest_precision(resolve_device(device)),
        **default_settings("simclr", "adamw", batch_size=batch_size),
    )
    with tempfile.TemporaryDirectory(prefix="bench-train-") as name:
        if directory is None:
            directory = Path(name) / "dataset"
            write_dataset(directory, num_groups=groups or OWN_GROUPS, size=OWN_SIZE)
        if threads is not None:
            torch.set_num_threads(threads)
        task = TrainTask(
            config=config,
            dataset=GroupDataset(directory, n=groups),
            options=RunOptions(device=device, num_threads=threads, num_workers=workers, compile=compile, quiet=True),
            scratch=Path(name),
        )
        result = run_benchmark(task, repeats=repeats)
    measuring.print_result(result, format_report(result), as_json=as_json)


def format_report(result: dict[str, Any]) -> list[str]:
    """The table and what belongs under it."""
    config = result["config"]
    rates = result["views_per_second"]
    rows = [(name, "-" if rate is None else measuring.format_rate(rate)) for name, rate in rates.items()]
    over_lightly = result["step_over_lightly"]
    return [
        f"{config['encoder']}, {result['size']} px, {config['steps']} steps of {config['batch_size']} groups of two "
        f"images out of {result['groups']}, {config['precision']}, {result['device']}, {result['threads']} threads",
        "",
        *format_table(("", "images/s"), rows),
        "",
        f"ours over resident {result['step_over_resident']:.3f}, ours over lightly "
        f"{'-' if over_lightly is None else f'{over_lightly:.2f}'}, waiting for data {result['data_wait_share']:.1%}",
        *(f"{name}: {note}" for name, note in result["notes"].items()),
        f"medians of {result['repeats']} rounds; {measuring.format_machine(result['machine'])[0]}",
        measuring.format_machine(result["machine"])[1],
    ]


if __name__ == "__main__":
    main()
