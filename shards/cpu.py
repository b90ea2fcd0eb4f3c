"""Which CPU this is, as the system tells.

cpu_name()                  # "AMD EPYC 9R14"
bfloat16_units()            # {"avx512_bf16"}; empty where bfloat16 is not multiplied natively
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path


def cpu_name() -> str:
    """The model's name."""
    names = [line.partition(":")[2].strip() for line in _lines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def cpu_flags() -> tuple[str, ...]:
    """The instruction sets, as the system lists them."""
    return tuple(next((line.split() for line in _lines() if line.startswith(("flags", "Features"))), ()))


def bfloat16_units() -> frozenset[str]:
    """The instruction sets that multiply bfloat16: avx512_bf16, amx_bf16, or Arm's bf16."""
    return frozenset({"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags()))


@cache
def _lines() -> tuple[str, ...]:
    try:
        return tuple(Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    except OSError:
        return ()
