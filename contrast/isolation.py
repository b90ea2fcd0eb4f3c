"""torch's settings of a process and what is drawn from its generators: neither read by our work nor changed by it.

with own_torch(device, num_threads=1):
    torch.manual_seed(0)                    # of this work alone
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_torch(device: torch.device, *, num_threads: int | None = None) -> Iterator[None]:
    """Inside, torch is as a new process has it; afterwards all is as before, random numbers included.

    Default number format and device, threads of a CPU operation, gradients on, and the generators of the CPU and of
    `device`.
    """
    threads, dtype, home = torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    torch.set_default_dtype(torch.float32)
    if home.type != "cpu":  # only then: a default device is a layer around every operation
        torch.set_default_device(None)
    try:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        if home.type != "cpu":
            torch.set_default_device(home)
