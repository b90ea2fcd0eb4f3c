"""Passes that torch.compile has fused, for batches of one size, tried against the plain ones before they count.

    compile_passes(generator, batch_size=50, device=torch.device("cpu"))

Between its convolutions BigGAN-deep scales, shifts, rectifies and enlarges: plain passes round every step and write it
to memory, compiled ones do all of them at once. That is faster wherever arithmetic is fast beside memory, and gives
other last bits, so a dataset records it (RenderSettings.compiled). A pass is one graph or an error: nothing falls back
to plain passes unsaid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shards.console import describe_error
from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.probing import probe_inputs
from synthgen.adapters.protocol import CompilableGenerator, Generator
from synthgen.devices import explain_out_of_memory, find_compiler, lacks_memory, on_device, reproducible_arithmetic

_MOST_LEVELS = 4.0
"""Mean difference to the plain pixels, of 255 levels, up to which they were only rounded elsewhere."""


def compiled(function: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor], Any]:
    """What torch.compile makes of a pass, at its first call: one graph, fixed shapes, the same kernels every time."""
    fused = torch.compile(function, fullgraph=True, dynamic=False, options={"deterministic": True})

    def run(latents: Tensor, labels: Tensor) -> Any:
        # Copies are alike whoever made the originals, in inference mode or not; those would be compiled for anew.
        return fused(latents.clone(), labels.clone())

    return run


def compile_passes(
    generator: Generator, *, batch_size: int, device: torch.device, truncation: float = 1.0
) -> CompilableGenerator:
    """Makes the generator's `sample` run compiled passes, and compiles them; nothing to do where they are already.

    A minute or so, once per process; less where Inductor finds in its cache what an earlier process compiled.

    Raises:
        ValueError: it cannot be compiled here, or compiled passes give other pictures; the message says what to do.
    """
    name, fix = generator.name, "leave --compile away"
    if not isinstance(generator, CompilableGenerator):
        raise ValueError(f"{name} has no method compile: {fix}")
    if generator.is_compiled:
        return generator
    if not hasattr(torch._inductor.config, "deterministic"):
        raise ValueError(f"--compile needs a newer torch than {torch.__version__}, to give the same kernels every time")
    if find_compiler(device) is None:
        needed = "triton" if device.type == "cuda" else "a C++ compiler (g++, or another that CXX names)"
        raise ValueError(f"--compile needs {needed}, and there is none here: install it, or {fix}")
    with on_device(device), explain_out_of_memory(device, batch_size=batch_size), reproducible_arithmetic(device):
        latents, labels = probe_inputs(generator, count=batch_size, device=device, truncation=truncation)
        plain = to_pixels(generator.sample(latents, labels))
        generator.compile()
        try:
            fused = to_pixels(generator.sample(latents, labels))
        except Exception as error:
            if lacks_memory(error):
                raise
            raise ValueError(
                f"{name} cannot be compiled ({describe_error(error)}): {fix}; SHARDS_TRACEBACK=1 shows where"
            ) from error
    apart = float((plain.float() - fused.float()).abs().mean())
    if apart > _MOST_LEVELS:
        raise ValueError(f"{name}: compiled passes give other pictures, {apart:.1f} of 255 levels apart: {fix}")
    return generator
