"""How long a dataset of thousands of shards takes to open, and how much memory: every shard touched once.

The shards are links to one real shard of a thousand groups, under a manifest that counts them all: as many files and
offsets as a real dataset of that length, in a few megabytes. Each length is opened in a process of its own.

    measure_opening(Path("scratch"), num_shards=1300, write_shard=write_dataset)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from shards.manifest import MANIFEST_NAME, Manifest, load_manifest, manifest_bytes, shard_name
from shards.markers import index_path, tar_path

GROUPS_PER_SHARD = 1000
OPENING = """
import json, sys, time
from shards.dataset import GroupDataset

began = time.perf_counter()
dataset = GroupDataset(sys.argv[1])
manifest_seconds = time.perf_counter() - began
for shard in dataset.manifest.shards:
    dataset.read(shard.first, "json")
seconds = time.perf_counter() - began
# Not getrusage: its peak is inherited from the process that started this one.
(peak_kilobytes,) = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({
    "shards": len(dataset.manifest.shards),
    "groups": len(dataset),
    "manifest_seconds": round(manifest_seconds, 3),
    "seconds": round(seconds, 3),
    "cpu_seconds": round(time.process_time(), 3),
    "peak_memory_bytes": peak_kilobytes * 1024,
}))
"""


def repeat_shard(directory: Path, num_shards: int, *, place: Callable[[Path, Path], object] = os.link) -> Manifest:
    """Makes a dataset of one shard look like one of many: the same groups again and again, under names of their own.

    Args:
        place: os.link, or shutil.copyfile where every shard has to have bytes of its own on the disk and in memory.
    """
    manifest = load_manifest(directory)
    (record,) = manifest.shards
    shards = tuple(
        replace(record, index=index, name=shard_name(index), first=index * record.count) for index in range(num_shards)
    )
    for index in range(1, num_shards):
        place(tar_path(directory, 0), tar_path(directory, index))
        place(index_path(directory, 0), index_path(directory, index))
    grown = replace(manifest, num_groups=num_shards * record.count, shard_size=record.count, shards=shards)
    (directory / MANIFEST_NAME).write_bytes(manifest_bytes(grown))
    return grown


def measure_opening(
    scratch: Path, *, num_shards: int, write_shard: Callable[[Path], None], repeats: int = 3
) -> dict[str, Any]:
    """Seconds and peak memory of opening so many shards and reading a member of each; the quickest of `repeats`."""
    directory = scratch / f"shards-{num_shards}"
    write_shard(directory)
    repeat_shard(directory, num_shards)
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", OPENING, str(directory)], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(repeats)
    ]
    return min(runs, key=lambda run: run["seconds"])
