"""Which device renders, in which number format, and what has to be written down about both.

Bytes depend on device model and library versions, so every shard's marker carries `describe_environment`. They do not
depend on the number of threads: on the CPU each forward pass runs on one thread, and several passes run side by side.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

DTYPES = ("auto", "float32", "bfloat16")
_NO_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED")  # CUDA, the CPU allocator, cuBLAS and cuDNN
_MOST_FORWARD_THREADS = 16  # above, Python's own work between two operations is what they would wait for


def choose_device(text: str) -> torch.device:
    """The device that `text` names; auto is the first GPU, or the CPU where there is none.

    Raises:
        ValueError: no such device here.
    """
    if text == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
    except RuntimeError:
        raise ValueError(f"device '{text}': give auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device '{text}': give auto, cpu, cuda or cuda:1")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ValueError(f"device '{text}': this machine has {num_gpus} usable GPUs; give --device auto or cpu")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else torch.device("cpu")


def choose_dtype(text: str, device: torch.device) -> str:
    """float32 or bfloat16; auto is bfloat16 wherever the device multiplies it natively, float32 elsewhere.

    On a CPU with avx512_bf16 the 32 px generator runs 1.7 times as fast in bfloat16, at a mean difference below one of
    255 levels.

    Raises:
        ValueError: another name.
    """
    if text not in DTYPES:
        raise ValueError(f"dtype '{text}': give one of {', '.join(DTYPES)}")
    if text != "auto":
        return text
    on_gpu = device.type == "cuda"
    native = torch.cuda.get_device_capability(device) >= (8, 0) if on_gpu else cpu_has_bfloat16()
    return "bfloat16" if native else "float32"


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (avx512_bf16, AMX, or Arm's bf16)."""
    return bool(_bfloat16_units())


def cpu_model() -> str:
    """The CPU's name and its bfloat16 units: two models of one vector width may still round differently."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return " ".join([names[0] if names else platform.processor() or "unknown", *sorted(_bfloat16_units())])


def _bfloat16_units() -> set[str]:
    flags = {flag for line in _cpu_lines() if line.startswith(("flags", "Features")) for flag in line.split()}
    return flags & {"avx512_bf16", "amx_bf16", "bf16"}


@cache
def _cpu_lines() -> tuple[str, ...]:
    try:
        return tuple(Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    except OSError:
        return ()


def count_forward_threads(device: torch.device) -> int:
    """Forward passes to run side by side: one per usable CPU core, one on a GPU (whose queue keeps it busy)."""
    if device.type == "cuda":
        return 1
    return min(len(os.sched_getaffinity(0)), _MOST_FORWARD_THREADS)


def count_encode_threads(device: torch.device) -> int:
    """Threads that encode images: one beside a CPU (a twentieth of its forward passes), up to 8 beside a GPU."""
    if device.type == "cuda":
        return max(1, min(len(os.sched_getaffinity(0)) - 2, 8))
    return 1


def describe_environment(device: torch.device) -> dict[str, str]:
    """What the bytes of a shard depend on beside recipe, batch and dtype."""
    environment = {
        "synthgen": version("synthgen"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": "cpu",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cpu_model": cpu_model(),
        "machine": platform.machine(),
    }
    for package in ("numpy", "scipy", "simplejpeg", "pillow"):
        environment[package] = version(package)
    if device.type == "cuda":
        environment["device"] = torch.cuda.get_device_name(device)
        environment["cuda"] = str(torch.version.cuda)
        environment["cudnn"] = str(torch.backends.cudnn.version())
    return environment


def set_forward_threads(device: torch.device) -> None:
    """Makes the calling thread run its forward passes alone; torch keeps this setting per thread."""
    if device.type == "cpu":
        torch.set_num_threads(1)


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Inside, CUDA calls of this thread that name no device mean this one; on a CPU it does nothing."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def reproducible_arithmetic(device: torch.device) -> Iterator[None]:
    """Inside, equal batches give equal bits: one thread per pass on a CPU, fixed kernels on a GPU, float32 in full.

    Settings of the process are changed, and put back at the end: whoever allowed TF32 or bfloat16 products in place of
    float32 ones for other work gets the same pixels as everybody.
    """
    precision, num_threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("highest")
    try:
        if device.type == "cuda":
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
        else:
            set_forward_threads(device)
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(num_threads)


@contextmanager
def explain_out_of_memory(device: torch.device, *, batch_size: int) -> Iterator[None]:
    """Turns a device's lack of memory into a line that says what to do; nothing is made smaller behind one's back.

    Raises:
        ValueError: the device, or a CPU's allocator, had no room.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # only CUDA's allocator of tensors has an error type of its own
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise ValueError(
            f"{device} ran out of memory at batch size {batch_size}: free some of it, take a larger device, or give a "
            "new dataset a smaller --batch-size (never lowered silently: it decides the last bits of the pixels)"
        ) from error
