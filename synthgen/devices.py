"""Which device renders, in which number format, and what has to be written down about both.

Bytes depend on device model and library versions, so every shard's marker carries `describe_environment`. They do not
depend on the number of threads: on the CPU each forward pass runs on one thread, and several passes run side by side.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import torch

from shards.cpu import bfloat16_units, cpu_name
from shards.errors import describe_lack, lacks_memory

DTYPES = ("auto", "float32", "bfloat16")
_DEVICE_PATTERN = re.compile(r"(cpu|cuda)(?::(\d{1,4}))?")
_MOST_PROCESSES = 256
_MOST_FORWARD_THREADS = 16  # above, Python's own work between two operations is what they would wait for


def choose_device(text: str | torch.device) -> torch.device:
    """The one device that `text` names; auto is the first GPU, or the CPU where there is none.

    Raises:
        ValueError: no such device here.
    """
    text = str(text)  # a torch.device is one, too
    if text == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    match = _DEVICE_PATTERN.fullmatch(text)
    if match is None or (match[1] == "cpu" and match[2]):
        raise ValueError(f"device '{text}': give auto, cpu, cuda or cuda:1")
    if match[1] == "cpu":
        return torch.device("cpu")
    num_gpus, index = count_gpus(), int(match[2] or 0)
    if index >= num_gpus:
        raise ValueError(f"device '{text}': this machine has {num_gpus} usable GPUs; give auto or cpu")
    return torch.device("cuda", index)


def choose_devices(text: str) -> tuple[torch.device, ...]:
    """The devices that `text` names, one for every process: auto, cuda (all GPUs), cuda:0,cuda:1, cpu, or cpu:2.

    auto is all GPUs, or one process on the CPU where there is none; cpu:2 is two processes that share the CPU's cores,
    and cuda:0,cuda:0 two that share a GPU. All devices are of one model, because others give other last bits.

    Raises:
        ValueError: no such devices here, or devices of several kinds.
    """
    num_gpus = count_gpus()
    if text == "auto":
        text = "cuda" if num_gpus else "cpu"
    if text == "cuda":
        text = ",".join(f"cuda:{index}" for index in range(num_gpus)) or "cuda:0"
    devices: list[torch.device] = []
    for word in (word.strip() for word in text.split(",")):
        match = _DEVICE_PATTERN.fullmatch(word)
        if match is None or (match[1] == "cpu" and match[2] == "0"):
            raise ValueError(f"devices '{text}': give auto, cpu, cuda, cuda:0,cuda:1, or cpu:2 (two processes)")
        if match[1] == "cpu":
            devices += [torch.device("cpu")] * int(match[2] or 1)
        elif int(match[2] or 0) >= num_gpus:
            raise ValueError(f"devices '{word}': this machine has {num_gpus} usable GPUs; give --devices auto or cpu")
        else:
            devices.append(torch.device("cuda", int(match[2] or 0)))
    models = {device: torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU" for device in devices}
    if len(set(models.values())) > 1:
        same = [str(device) for device in dict.fromkeys(devices) if models[device] == models[devices[0]]]
        shown = ", ".join(f"{device} is {model}" for device, model in models.items())
        raise ValueError(
            f"devices '{text}': {shown}, and other models give other last bits; give one model, such as "
            f"--devices {','.join(same)}"
        )
    if len(devices) > _MOST_PROCESSES:
        raise ValueError(f"devices '{text}': give at most {_MOST_PROCESSES} processes")
    return tuple(devices)


def describe_devices(devices: Sequence[torch.device]) -> str:
    """The devices as one would give them: cpu:2, or cuda:0,cuda:1."""
    if len(devices) > 1 and devices[0].type == "cpu":
        return f"cpu:{len(devices)}"
    return ",".join(map(str, devices))


def count_gpus() -> int:
    """GPUs that torch can use here."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def share_cores(index: int, count: int) -> set[int]:
    """The CPU cores of process `index` of `count`: all usable ones dealt evenly, or one each where they are too few."""
    cores = sorted(os.sched_getaffinity(0))
    if count >= len(cores):
        return {cores[index % len(cores)]}
    return set(cores[index * len(cores) // count : (index + 1) * len(cores) // count])


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
    native = torch.cuda.get_device_capability(device) >= (8, 0) if on_gpu else bool(bfloat16_units())
    return "bfloat16" if native else "float32"


def cpu_model() -> str:
    """The CPU's name and its bfloat16 units: two models of one vector width may still round differently."""
    return " ".join([cpu_name(), *sorted(bfloat16_units())])


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


def describe_environment(device: torch.device, *, compiled: bool = False) -> dict[str, str]:
    """What the bytes of a shard depend on beside recipe, batch and dtype; of compiled passes also their compiler."""
    environment = {
        "synthgen": _own_version(),
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
    if compiled:
        environment["compiler"] = find_compiler(device) or "none"
    return environment


def _own_version() -> str:
    try:
        return version("synthgen")
    except PackageNotFoundError:  # a clone on the path, not installed
        return "not installed"


def find_compiler(device: torch.device) -> str | None:
    """What turns compiled passes into machine code, with its version: Triton on a GPU, a C++ compiler on a CPU."""
    if device.type == "cuda":
        for package in ("triton", "pytorch-triton"):
            with suppress(PackageNotFoundError):
                return f"triton {version(package)}"
        return None
    return _cpp_compiler(os.environ.get("CXX") or "g++")


@cache
def _cpp_compiler(program: str) -> str | None:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return said.partition("\n")[0].strip() or program


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Inside, CUDA calls of this thread that name no device mean this one; on a CPU it does nothing."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def count_failed_allocations(device: torch.device) -> int:
    """How often this process found no room on a GPU so far; 0 of a CPU, where the first time is the last.

    Not all of them are errors: where cuDNN has no room for an engine's scratch it silently takes another engine, whose
    last bits are others, and keeps it.
    """
    return int(torch.cuda.memory_stats(device).get("num_ooms", 0)) if device.type == "cuda" else 0


@contextmanager
def explain_out_of_memory(device: torch.device, *, batch_size: int | None = None) -> Iterator[None]:
    """Turns a device's lack of memory into a line that says what to do; nothing is made smaller behind one's back.

    Raises:
        ValueError: the device, or a CPU's allocator, had no room.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        raise no_memory(device, error, batch_size) from error


def no_memory(device: torch.device, error: BaseException, batch_size: int | None) -> ValueError:
    """What is said where there was no room."""
    lack = describe_lack(error, str(device), at="" if batch_size is None else f" at batch size {batch_size}")
    return ValueError(
        f"{lack}: free some of it, take a larger device, or give a "
        "new dataset a smaller --batch-size (never lowered silently: it decides the last bits of the pixels)"
    )
