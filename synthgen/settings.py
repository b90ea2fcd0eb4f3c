"""What decides the last bits and not the recipe, dtype and batch: as asked for, as the folder has it, or what suits.

dtype = dtype_to_ask_for("biggan-deep-32", "auto", stored=None, device=device)
batch_size = choose_batch_size(generator, None, stored=None, device=device)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shards.recipe import RenderSettings
from synthgen.adapters import GENERATORS
from synthgen.adapters.own_names import kind_of_name

if TYPE_CHECKING:
    import torch

    from synthgen.adapters.protocol import Generator


def dtype_to_ask_for(name: str, asked: str, *, stored: RenderSettings | None, device: torch.device) -> str:
    """The number format to load a generator in; auto where the generator alone decides it.

    Raises:
        ValueError: there is no such format, or no such function as the name says.
    """
    from synthgen.devices import choose_dtype

    if name not in GENERATORS:
        if kind_of_name(name) == "program":
            return asked  # it runs in the one it was exported in
        from synthgen.adapters.python_function import takes_dtype

        if not takes_dtype(name):
            return asked
    return stored.dtype if stored and asked == "auto" else choose_dtype(asked, device)


def choose_batch_size(
    generator: Generator, asked: int | None, *, stored: RenderSettings | None, device: torch.device
) -> int:
    """Groups per forward pass.

    Raises:
        ValueError: another than the generator's only one was asked for.
    """
    fixed = generator.fixed_batch_size
    if fixed is not None:
        if asked not in (None, fixed):
            raise ValueError(
                f"{generator.name} was exported for batches of {fixed}: leave --batch-size away, or export it with a "
                "dynamic batch"
            )
        return fixed
    if asked is not None:
        return asked
    if stored is not None:
        return stored.batch_size
    if generator.name in GENERATORS:
        info = GENERATORS[generator.name]
        return info.gpu_batch_size if device.type == "cuda" else info.cpu_batch_size
    from synthgen.adapters.own_generator import usual_batch_size

    return usual_batch_size(generator.image_size, device)
