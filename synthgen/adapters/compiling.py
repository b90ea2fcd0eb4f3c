"""Passes that torch.compile has fused, for batches of one size, tried against the plain ones before they count.

    fused = compile_passes(generator, batch_size=50, device=torch.device("cpu"))

Between its convolutions BigGAN-deep scales, shifts, rectifies and enlarges: plain passes round every step and write it
to memory, compiled ones do all of them at once. That is faster wherever arithmetic is fast beside memory, and gives
other last bits, so a dataset records it (RenderSettings.compiled). A pass is one graph or an error: nothing falls back
to plain passes unsaid, and what is set elsewhere in the process or the environment does not choose other kernels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from shards.cpu import cpu_flags
from shards.errors import describe_error, lacks_memory
from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.probing import probe_inputs
from synthgen.adapters.protocol import CompilableGenerator, Generator
from synthgen.arithmetic import reproducible_arithmetic, set_forward_threads
from synthgen.devices import (
    describe_environment,
    explain_out_of_memory,
    find_compiler,
    on_device,
)

_MOST_LEVELS = 2.0
"""Mean difference to the plain pixels, of 255 levels, up to which they were only rounded elsewhere; it was 0.44."""
_OPTIONS: dict[str, Any] = {
    "deterministic": True,  # kernels are chosen without timing them, but for pointwise ones of Triton, whose bits agree
    "batch_invariant": False,
    "coordinate_descent_tuning": False,
    "cpp.enable_floating_point_contract_flag": "off",
    "cpp.enable_unsafe_math_opt_flag": False,
    "emulate_precision_casts": False,
    "freezing": False,
    "max_autotune": False,
    "max_autotune_gemm": False,
    "max_autotune_pointwise": False,
    "numerics": "default",
    "triton.cudagraphs": False,
    "use_fast_math": False,
}
"""Settings of Inductor that decide bits or kernels; variables of the environment could change them."""
_compiling = Lock()  # variables of the environment are changed meanwhile


class CompiledGenerator:
    """A generator whose `sample` is compiled, for one batch size on one device; all else is the plain one's."""

    def __init__(self, generator: CompilableGenerator, *, batch_size: int, device: torch.device) -> None:
        self._generator = generator
        self.place = batch_size, device
        known = torch._inductor.list_options()
        options = {name: value for name, value in _OPTIONS.items() if name in known}
        self._fused = torch.compile(generator.bare_pass, fullgraph=True, dynamic=False, options=options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    @torch.inference_mode()
    def sample(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images [B, 3, H, W], float32 in [-1, 1], of latents [B, latent_dim] float32 and labels [B] int64."""
        # Copies are alike whoever made the originals, in inference mode or not; those would be compiled for anew.
        images: Tensor = self._fused(latents.clone(), labels.clone())
        return images.float()

    @torch.inference_mode()
    def render(self, latents: Tensor, labels: Tensor, *, size: int | None = None) -> Tensor:
        """Pixels [B, H, W, 3], uint8, on the generator's device; resized to `size` where it is given."""
        return to_pixels(self.sample(latents, labels), size=size)


def compile_passes(generator: Generator, *, batch_size: int, device: torch.device) -> Generator:
    """The same generator with compiled passes, or itself where it has them already.

    Half a minute or more, once per process; seconds where Inductor finds in its cache what an earlier process compiled.
    The process forgets what else torch.compile made in it, and compiles that again when it is called.

    Raises:
        ValueError: it cannot be compiled here, or compiled passes give other pictures; the message says what to do.
    """
    name, fix = generator.name, "omit --compile, or give --no-compile"
    if isinstance(generator, CompiledGenerator) and generator.place == (batch_size, device):
        return generator
    if not isinstance(generator, CompilableGenerator):
        raise ValueError(f"{name} has no bare_pass to compile: {fix}")
    if "deterministic" not in torch._inductor.list_options():
        raise ValueError(
            f"--compile needs torch 2.10 or newer, which makes the same kernels every time, and {torch.__version__} is "
            f"here: {fix}"
        )
    if find_compiler(device) is None:
        needed = "triton" if device.type == "cuda" else "a C++ compiler (g++, or another that CXX names)"
        raise ValueError(f"--compile needs {needed}, and there is none here: install it, or {fix}")
    latents, labels = probe_inputs(generator, count=batch_size, device=device)
    fused = CompiledGenerator(generator, batch_size=batch_size, device=device)

    def pixels(of: Generator) -> Tensor:
        with on_device(device), explain_out_of_memory(device, batch_size=batch_size):
            return to_pixels(of.sample(latents, labels))

    with (
        reproducible_arithmetic(device),
        _own_cache(device),
        warnings.catch_warnings(),
        ThreadPoolExecutor(1, "compile", set_forward_threads) as here,
        ThreadPoolExecutor(1, "compile", set_forward_threads) as there,
    ):  # in threads as those that will pass forward, whatever the caller's has set
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")  # Inductor's advice, which would change bits
        plain = here.submit(pixels, generator).result()
        torch.compiler.reset()
        before = _count_graphs()
        try:
            first = here.submit(pixels, fused).result()
            compiled = _count_graphs() - before
            again = [pool.submit(pixels, fused).result() for pool in (there, here, there)]
        except Exception as error:
            if lacks_memory(error) or isinstance(error, ValueError):
                raise
            said = f"{name} cannot be compiled ({_cause(error)})"
            raise ValueError(f"{said}: {fix}; SHARDS_TRACEBACK=1 shows where") from error
    if compiled != 1:
        raise ValueError(
            "--compile: torch.compile is switched off here, by TORCHDYNAMO_DISABLE or a stance of torch.compiler: "
            f"switch it on, or {fix}"
        )
    if _count_graphs() - before != 1:
        raise ValueError(f"{name} would be compiled anew at every pass: keep no state in its sample, or {fix}")
    apart = max(float((plain.float() - other.float()).abs().mean()) for other in (first, *again))
    if apart > _MOST_LEVELS or not all(torch.equal(first, other) for other in again):
        raise ValueError(f"{name}: compiled passes give other pictures, {apart:.1f} of 255 levels apart: {fix}")
    return fused


@contextmanager
def _own_cache(device: torch.device) -> Iterator[None]:
    """Inside, Inductor's cache is a folder for this kind of machine and this compiler alone.

    Its own keys leave both out: what another vector width or compiler has left there would be run as it is, or crash.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    kind = {**describe_environment(device, compiled=True), "flags": " ".join(cpu_flags())}
    digest = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:16]
    variable = "TORCHINDUCTOR_CACHE_DIR"
    with _compiling:
        before = os.environ.get(variable)
        os.environ[variable] = str(Path(before or default_cache_dir()) / f"synthgen-{digest}")
        log = logging.getLogger("torch.utils.cpp_extension")  # says that a machine with CUDA's tools has no GPU
        log.addFilter(_is_error)
        try:
            yield
        finally:
            log.removeFilter(_is_error)
            os.environ.pop(variable, None)
            if before is not None:
                os.environ[variable] = before


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _count_graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _cause(error: BaseException) -> str:
    """What a compiler said, where it was a compiler; else the error, in one short line."""
    said = [line.strip() for line in str(error).splitlines() if "error:" in line]
    return said[-1][:200] if said else describe_error(error)
