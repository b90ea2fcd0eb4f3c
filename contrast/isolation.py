"""What a process has set up in torch, and what it draws: neither read by our work nor changed by it.

with own_torch(device, num_threads=1):
    torch.manual_seed(0)                    # of this work alone
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def own_torch(device: torch.device, *, num_threads: int | None = None) -> Iterator[None]:
    """Inside: float32 and the CPU as defaults, gradients on, no autocast, the given number of threads.

    Afterwards all of that is as before, and so are the generators of the CPU and of `device`: what the user draws next
    is as if nothing had run. Default number format, threads and the CPU's generator are of the process: work in
    another thread sees them change.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    on_cpu = torch.empty(0).device.type == "cpu"  # a default device is a layer around every operation: only then
    try:
        with (
            nullcontext() if on_cpu else torch.device("cpu"),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
