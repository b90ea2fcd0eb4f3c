"""One process or several started by torchrun: who we are, which device is ours, and what the processes agree on.

with process_group("cpu") as place:
    place.rank, place.world_size, place.device
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

# DistributedDataParallel imports this module, whose functions take the group there is by then for a default: the group
# would outlive its end, and a thread of gloo that lets go of a tensor while Python shuts down aborts the process.
import torch.distributed.nn.functional
from torch import Tensor

from contrast.devices import resolve_device
from shards.canonical import JSON, canonical_json


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process among the others."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and the progress."""
        return self.rank == 0

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over all processes; waits for the device."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / self.world_size
        return float(value)

    def agree(self, value: JSON) -> bool:
        """Whether all processes have the same value."""
        if self.world_size == 1:
            return True
        number = int(hashlib.sha256(canonical_json(value).encode()).hexdigest()[:15], 16)
        extremes = torch.tensor([number, -number], device=self.device)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        return int(extremes[0]) == -int(extremes[1])


@contextmanager
def process_group(device_name: str) -> Iterator[Place]:
    """Joins the group that torchrun announces in the environment, with NCCL on GPUs and gloo on CPUs, or is alone.

    A group that is there already is used and left open. One whose process fails on a GPU is left to torchrun, which
    ends the other processes: NCCL would wait for them, and they wait for this one.
    """
    device = resolve_device(device_name)
    if dist.is_available() and dist.is_initialized():
        yield Place(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Place(rank=0, world_size=1, device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)
    except BaseException:
        if device.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()
