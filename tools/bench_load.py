"""How fast groups come back from the disk: our readers beside other people's, on the same tars and the same output.

Every reader delivers uint8 batches [B, K, H, W, 3] of decoded groups, unshuffled; what it delivered is checked before
anything is timed.

    tar                     random access, shards.GroupDataset.batch, in processes
    stream                  shards.stream_groups, in processes
    webdataset              the pipeline that its authors document, with its own decoder, in processes
    webdataset_simplejpeg   the same with the fastest decoder that it can be given
    imagefolder             torchvision's ImageFolder with PIL over the same images as loose files, in processes
    ffcv_jpg                FFCV where it is installed, in threads: the same JPEG files, its own, coarser decoder
    ffcv_recompressed       FFCV's own jpg mode, which compresses again, in 420: other images, less to decode
    ffcv_raw                FFCV over pixels: no decoding, many times the bytes
    decode                  the JPEG decoder alone, over bytes in memory: the limit
    decode_on_grid          the same where pixels lie at multiples of 32 bytes: libjpeg-turbo writes past the caches

Cold means that the files were put out of the operating system's memory before, warm that they were just read. Rates are
medians over rounds in which all readers take turns; ratios compare the best number of workers of each, warm.

    python tools/bench_load.py
    python tools/bench_load.py --shards datasets/demo --workers 0,4,8 --json
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import measuring
import numpy as np
from loaders import COLD_LOADERS, LOADERS, Epoch, LoadTask, has_ffcv, write_betons, write_loose_files
from noise_dataset import write_dataset
from opening import GROUPS_PER_SHARD, measure_opening

from shards.console import Count, format_table
from shards.manifest import load_manifest
from shards.quantities import format_bytes

PACKAGES = ("synthgen", "torch", "torchvision", "numpy", "simplejpeg", "pillow", "webdataset", "ffcv")
OWN_GROUPS, OWN_SIZE = 4000, 32
OPENED_SHARDS = (1300, 13_000)
FFCV_LOADERS = ("ffcv_jpg", "ffcv_recompressed", "ffcv_raw")
LARGEST_DIFFERENCE = 2.0
"""Of a group's mean level, 0 to 255, between two decoders, or after FFCV's compression."""


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def evict(files: Sequence[Path]) -> bool:
    """Puts files out of the operating system's memory; False where it keeps many, or does not say (as tmpfs)."""
    return sum(not _evict_file(path) for path in files) <= len(files) // 100


def _evict_file(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(3):  # a page that another core is about to hand over stays, once
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT)  # succeeds only where nothing must be fetched
        return False
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)


def check_epoch(name: str, epoch: Epoch, task: LoadTask, expected: np.ndarray | None) -> np.ndarray:
    """Reads an epoch and gives the mean level of every group, ascending, for readers have orders of their own."""
    means = []
    for batch in epoch():
        images = np.asarray(batch)
        assert images.shape[1:] == task.shape and images.dtype == np.uint8, (name, images.shape, images.dtype)
        means.append(images.reshape(len(images), -1).mean(axis=1))
    levels = np.sort(np.concatenate(means))
    assert len(levels) == task.num_groups, f"{name} delivers {len(levels)} groups of {task.num_groups}"
    if expected is not None:
        difference = np.abs(levels - expected).max()
        assert difference < LARGEST_DIFFERENCE, f"{name} delivers other images: mean levels differ by {difference:.2f}"
    return levels


def time_epoch(epoch: Epoch, task: LoadTask) -> float:
    """Groups per second of one epoch, from asking for its first batch to its last."""
    count, seconds = 0, 0.0
    batches = epoch()
    began = time.perf_counter()
    for images in batches:
        count += len(images)
        seconds = time.perf_counter() - began  # what a loader closes after its last batch is not reading
    assert count == task.num_groups, count
    return count / seconds


def run_benchmark(task: LoadTask, *, quality: int, workers: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Rates per reader, temperature and number of workers, and the ratios; what could not be measured is None."""
    machine = measuring.describe_machine(PACKAGES)
    notes: dict[str, str] = {}
    write_loose_files(task)
    if has_ffcv():
        write_betons(task, quality=quality)
    else:
        notes.update(dict.fromkeys(FFCV_LOADERS, "not installed"))
    os.sync()  # what is not on the disk yet cannot be evicted

    shards = sorted((task.directory / "data").iterdir())
    files = dict.fromkeys(("tar", "stream", "webdataset", "webdataset_simplejpeg"), shards)
    files["imagefolder"] = sorted(task.loose.rglob("*.jpg"))
    files.update({name: [task.beton(name.removeprefix("ffcv_"))] for name in FFCV_LOADERS if name not in notes})
    cold = all(evict(paths) for paths in files.values())
    if not cold:
        notes["cold"] = f"not measured: the system keeps files of {task.directory} or of {task.loose} in memory"

    levels = None
    contestants = {}
    for name, open_loader in LOADERS.items():
        for num_workers in workers:
            if name in notes or (name in FFCV_LOADERS and num_workers == 0):
                continue
            epoch = open_loader(task, num_workers)
            levels = check_epoch(name, epoch, task, levels)
            if cold and name in files:
                cold_epoch = epoch if COLD_LOADERS[name] is open_loader else COLD_LOADERS[name](task, num_workers)

                def run_cold(epoch: Epoch = cold_epoch, paths: list[Path] = files[name]) -> float:
                    evict(paths)
                    return time_epoch(epoch, task)

                contestants[f"{name}/cold/{num_workers}"] = run_cold
            contestants[f"{name}/warm/{num_workers}"] = lambda epoch=epoch: time_epoch(epoch, task)
    rates = measuring.measure_rounds(contestants, repeats=repeats, label="reading")

    table: dict[str, Any] = {}
    for name in LOADERS:
        table[name] = None if name in notes else {"warm": {}, "cold": {}}
    for key, rate in rates.items():
        name, temperature, num_workers = key.split("/")
        table[name][temperature][num_workers] = rate
    best = {name: max(row["warm"].values()) for name, row in table.items() if row and row["warm"]}
    others = ("webdataset", "webdataset_simplejpeg", "imagefolder", *FFCV_LOADERS, "decode", "decode_on_grid")
    return {
        **{f"tar_over_{name}": best["tar"] / best[name] if name in best else None for name in others},
        "groups_per_second": table,
        "notes": notes,
        "groups": task.num_groups,
        "images_per_group": task.shape[0],
        "size": task.shape[1],
        "shards": task.num_shards,
        "tar_bytes": sum(path.stat().st_size for path in task.tars),
        "batch_size": task.batch_size,
        "workers": list(workers),
        "repeats": repeats,
        "machine": machine,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Program

main = measuring.Program()


@main.command(help=measuring.as_help(__doc__))
@click.option("--shards", "directory", type=click.Path(path_type=Path), help="A dataset of JPEG images to read.")
@click.option("--groups", type=Count(), help="Groups to read, rounded up to whole shards.  [default: 4k]")
@click.option("--size", type=Count(), help="Without --shards: pixels, height and width.  [default: 32]")
@click.option("--batch-size", type=Count(), default="256", show_default=True, help="Groups of a batch.")
@click.option("--workers", default="0,1,2", show_default=True, help="Numbers of workers to try.")
@click.option("--repeats", type=Count(), default="3", show_default=True, help="Rounds; rates are their medians.")
@click.option("--opening", is_flag=True, help="Measure opening 1,300 and 13,000 shards, and nothing else.")
@measuring.json_option
def measure(
    directory: Path | None,
    groups: int | None,
    size: int | None,
    batch_size: int,
    workers: str,
    repeats: int,
    opening: bool,
    as_json: bool,
) -> None:
    if opening:
        measuring.print_result(*run_opening(size or OWN_SIZE, repeats), as_json=as_json)
        return
    counts = parse_workers(workers)
    if directory is not None and size is not None:
        raise click.UsageError("--size is for a dataset of its own: omit it, or --shards")
    with tempfile.TemporaryDirectory(prefix="bench-load-") as name:
        scratch = Path(name)
        groups = groups or OWN_GROUPS
        if directory is None:
            directory = scratch / "dataset"
            write_dataset(directory, num_groups=groups, size=size or OWN_SIZE)
        manifest = load_manifest(directory)
        image = manifest.recipe.image
        if image["format"] != "jpg":
            raise ValueError(f"{directory} holds {image['format']} images: this compares readers of jpg; give another")
        task = LoadTask.of(
            directory, num_groups=min(groups, manifest.num_groups), batch_size=batch_size, scratch=scratch
        )
        if max(counts) > task.num_shards:
            raise ValueError(
                f"--workers {workers}: webdataset fails where a worker has no shard, and these are {task.num_shards}; "
                f"give at most that many workers, or more --groups"
            )
        result = run_benchmark(task, quality=image["quality"], workers=counts, repeats=repeats)
    measuring.print_result(result, format_report(result), as_json=as_json)


def run_opening(size: int, repeats: int) -> tuple[dict[str, Any], list[str]]:
    """What opening datasets of many shards costs, as figures and as lines."""
    machine = measuring.describe_machine(PACKAGES)

    def write_shard(directory: Path) -> None:
        write_dataset(directory, num_groups=GROUPS_PER_SHARD, size=size, shard_size=GROUPS_PER_SHARD)

    with tempfile.TemporaryDirectory(prefix="bench-load-") as name:
        runs = [
            measure_opening(Path(name), num_shards=count, write_shard=write_shard, repeats=repeats)
            for count in OPENED_SHARDS
        ]
    lines = [
        f"{run['shards']} shards of {GROUPS_PER_SHARD} groups opened and touched in {run['seconds']:.2f} s "
        f"(processor time {run['cpu_seconds']:.2f} s), peak memory {format_bytes(run['peak_memory_bytes'])}"
        for run in runs
    ]
    return {"opening": runs, "repeats": repeats, "machine": machine}, [*lines, *measuring.format_machine(machine)]


def parse_workers(text: str) -> tuple[int, ...]:
    """Numbers of workers from text such as 0,1,2, ascending, each once."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() for word in words):
        raise click.UsageError(f"--workers {text}: give whole numbers from 0 on, such as 0,1,2")
    return tuple(sorted({int(word) for word in words}))


def format_report(result: dict[str, Any]) -> list[str]:
    """The table and what belongs under it."""
    columns = [(temperature, str(count)) for temperature in ("warm", "cold") for count in result["workers"]]
    rows = []
    for name, row in result["groups_per_second"].items():
        rates = [row[temperature].get(count) if row else None for temperature, count in columns]
        rows.append((name, *("-" if rate is None else measuring.format_rate(rate) for rate in rates)))
    ratios = ", ".join(
        f"{key.removeprefix('tar_over_')} {'-' if value is None else f'{value:.2f}'}"
        for key, value in result.items()
        if key.startswith("tar_over_")
    )
    return [
        f"{result['groups']} groups of {result['images_per_group']} images, {result['size']} px, in {result['shards']} "
        f"shards, {format_bytes(result['tar_bytes'])}; batches of {result['batch_size']}",
        "",
        *format_table(("groups/s, by workers", *(f"{heat} {count}" for heat, count in columns)), rows),
        "",
        f"tar over (warm, best number of workers of each): {ratios}",
        *(f"{name}: {note}" for name, note in result["notes"].items()),
        f"medians of {result['repeats']} rounds; {measuring.format_machine(result['machine'])[0]}",
        measuring.format_machine(result["machine"])[1],
    ]


if __name__ == "__main__":
    main()
