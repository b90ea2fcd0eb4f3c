"""Equal batches give equal bits: settings of torch that the pixels would otherwise depend on.

with reproducible_arithmetic(device), ThreadPoolExecutor(2, "forward", set_forward_threads) as pool:
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch

_T = TypeVar("_T")


def set_forward_threads() -> None:
    """Makes the calling thread run its forward passes alone; torch keeps this setting per thread.

    Beside a GPU, too, which does not need it: compiled passes are compiled anew for a thread whose setting differs.
    """
    torch.set_num_threads(1)


@contextmanager
def reproducible_arithmetic(device: torch.device) -> Iterator[None]:
    """Inside, equal batches give equal bits: one thread per pass on a CPU, fixed kernels on a GPU, float32 in full.

    Settings of the process are changed, and put back at the end: whoever allowed TF32 or bfloat16 products in place of
    float32 ones, or made another number format or device the default, gets the same pixels as everybody. What is drawn
    from torch's generators afterwards is as if nothing had been rendered. Work in another thread sees settings change.
    """
    num_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    set_forward_threads()
    torch.set_default_dtype(torch.float32)
    on_cpu = torch.empty(0).device.type == "cpu"  # a default device is a layer around every operation: only then
    on_gpus = [device] if device.type == "cuda" and torch.cuda.is_available() else []
    try:
        with (
            nullcontext() if on_cpu else torch.device("cpu"),
            torch.random.fork_rng(devices=on_gpus),
            _full_float32(),
            _fixed_kernels(device),
        ):
            yield
    finally:
        torch.set_num_threads(num_threads)
        torch.set_default_dtype(dtype)


@contextmanager
def _fixed_kernels(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    sums: Any = matmul.allow_bf16_reduced_precision_reduction
    if hasattr(matmul, "allow_bf16_reduced_precision_reduction_split_k"):  # newer versions have two settings in one
        sums = sums, matmul.allow_bf16_reduced_precision_reduction_split_k
    tuned = torch.cuda.tunable.is_enabled()
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
    matmul.allow_bf16_reduced_precision_reduction = True  # torch's default
    torch.cuda.tunable.enable(False)  # it chooses kernels by the clock
    try:
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = before
        matmul.allow_bf16_reduced_precision_reduction = sums
        torch.cuda.tunable.enable(tuned)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Products of float32 numbers in float32. torch has an old and a new way to say so, and both are set.

    Where the new way was used, the old one may refuse to be read; it is then left as it is set here.
    """
    cudnn: Any = torch.backends.cudnn
    matmul = _read_or_none(torch.get_float32_matmul_precision)
    allow_tf32 = _read_or_none(lambda: bool(cudnn.allow_tf32))
    before = [(operators, operators.fp32_precision) for operators in _operators_with_precision()]
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    for operators, _ in before:
        operators.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if allow_tf32 is not None:
            cudnn.allow_tf32 = allow_tf32
        for operators, precision in before:  # last: the old way sets these, too
            operators.fp32_precision = precision


def _operators_with_precision() -> list[Any]:
    """What has a precision of its own: nothing before torch 2.9."""
    backends: Any = torch.backends
    families = [backends.cuda.matmul, *(getattr(backends.cudnn, name, None) for name in ("conv", "rnn"))]
    families += [getattr(backends.mkldnn, name, None) for name in ("matmul", "conv", "rnn")]
    return [operators for operators in families if hasattr(operators, "fp32_precision")]


def _read_or_none(read: Callable[[], _T]) -> _T | None:
    try:
        return read()
    except RuntimeError:
        return None
