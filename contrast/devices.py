"""Which device learns, in which number format, and what to do where it has no room. Rendering has rules of its own.

device = resolve_device("auto")
with explain_out_of_memory(device, fix="use a smaller --batch-size"):
    ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from numpy import ndarray
from torch import Tensor

from shards.cpu import bfloat16_units
from shards.errors import describe_lack, lacks_memory


def resolve_device(name: str) -> torch.device:
    """The device of a name such as cpu, cuda, cuda:1, or auto (a GPU where there is one).

    Raises:
        ValueError: the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}: use cpu, cuda, cuda:1 or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not supported: use cpu, cuda, cuda:1 or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"no device {name} here ({torch.cuda.device_count()} CUDA devices): use --device cpu")
    return device


def fastest_precision(device: torch.device) -> str:
    """bfloat16 on GPUs and CPUs that multiply it in hardware (1.4 to 1.8 times as fast there), else float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float32"
    return "bfloat16" if bfloat16_units() else "float32"


def in_precision(precision: str, device: torch.device) -> torch.autocast:
    """Inside, what autocast knows runs in bfloat16 where that is the precision, and in float32 where not.

    Weights are cast in every pass. Autocast would keep what it cast until the outermost of its regions ends: inside
    another one, of a user's own, the passes would see none of the updates.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def to_device(array: ndarray, device: torch.device) -> Tensor:
    """The array on the device; on its way to a GPU while this returns."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


@contextmanager
def explain_out_of_memory(device: torch.device, *, fix: str) -> Iterator[None]:
    """Turns a device's lack of memory into one line that ends with `fix`.

    Raises:
        ValueError: the device had no room.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise ValueError(f"{describe_lack(error, str(device))}: {fix}") from error
