"""The known generators, anyone's own, and how to load one.

    generator = load_generator("biggan-deep-32", truncation=0.7)
    pixels = generator.render(latents, labels)  # uint8 [B, 32, 32, 3]

A name is one of the table, or module:function (a function that makes a generator), or FILE.pt2 (a program saved by
torch.export.save).

Truncation t means two things at once, as in the published models: latents are t * TN(-2, 2), and the norms use the
statistics recorded for t. It is one number per dataset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.numbers import check_number
from synthgen.adapters.architecture import PUBLISHED_CONFIGS, count_flops, count_parameters
from synthgen.adapters.own_names import check_own_name, kind_of_name
from synthgen.adapters.weight_files import find_weights, require_weights

if TYPE_CHECKING:
    import torch

    from synthgen.adapters.protocol import Generator

DEFAULT_GENERATOR = "biggan-deep-32"


@dataclass(frozen=True, kw_only=True)
class GeneratorInfo:
    """A line in the table of generators: what can be said before any weights are there."""

    image_size: int
    """Height and width in pixels."""
    learned_from: str
    """The images that it was trained on."""
    gpu_batch_size: int
    """Groups per block on a GPU; keeps the largest activation below about 4 GB in bfloat16."""
    cpu_batch_size: int = 50
    """Groups per block on a CPU; larger ones fall out of its caches (measured at 32 px)."""


GENERATORS: Mapping[str, GeneratorInfo] = {
    "biggan-deep-32": GeneratorInfo(image_size=32, learned_from="CIFAR-10", gpu_batch_size=500),
    "biggan-deep-128": GeneratorInfo(image_size=128, learned_from="ImageNet", gpu_batch_size=500, cpu_batch_size=10),
    "biggan-deep-256": GeneratorInfo(image_size=256, learned_from="ImageNet", gpu_batch_size=125, cpu_batch_size=10),
    "biggan-deep-512": GeneratorInfo(image_size=512, learned_from="ImageNet", gpu_batch_size=50, cpu_batch_size=10),
}


def generator_info(name: str) -> GeneratorInfo:
    """The table's line of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in GENERATORS:
        raise ValueError(
            f"no generator '{name}': choose one of {', '.join(GENERATORS)}, or bring your own as module:function or "
            "FILE.pt2 (see: synthgen generators --help)"
        )
    return GENERATORS[name]


def check_generator_name(name: str) -> None:
    """Raises ValueError unless the name is of the table, or has the form of module:function or FILE.pt2."""
    if name not in GENERATORS:
        check_own_name(name)
        if kind_of_name(name) is None:
            generator_info(name)


def load_generator(
    name: str | Path = DEFAULT_GENERATOR,
    *,
    weights: str | Path | None = None,
    truncation: float = 1.0,
    device: str | torch.device = "auto",
    dtype: str = "auto",
) -> Generator:
    """A generator that follows `synthgen.adapters.protocol.Generator`, on the device, ready to render.

    Args:
        name: of the table, or module:function, or FILE.pt2.
        weights: folder or file; None for the built-in weights, or the published ones (fetched once). A function gets
            it as a keyword; of a .pt2 file it is the folder, where the name is the file's name alone.
        truncation: in (0, 1].
        device: auto, cpu, cuda or cuda:1.
        dtype: float32, bfloat16, or auto (the fast one: see `synthgen.devices.choose_dtype`; of a .pt2 file its own).

    Raises:
        ValueError: unknown name, missing or corrupt weights, a truncation out of range, or no such device.
    """
    name = str(name)
    check_generator_name(name)
    truncation = check_truncation(truncation)
    import torch

    from synthgen.arithmetic import reproducible_arithmetic
    from synthgen.devices import choose_device, choose_dtype

    place = choose_device(str(device))
    location = Path(weights) if weights is not None else None
    kind = kind_of_name(name) if name not in GENERATORS else None
    with reproducible_arithmetic(place):  # the weights, too, may not depend on what the process has as defaults
        if kind == "program":
            from synthgen.adapters.exported_program import load_program

            return load_program(name, weights=location, device=place, dtype=dtype)
        if kind == "function":
            from synthgen.adapters.python_function import load_from_function

            return load_from_function(name, weights=location, truncation=truncation, device=place, dtype=dtype)
        from synthgen.adapters.biggan import load_biggan

        files = require_weights(name, location)
        number_format = getattr(torch, choose_dtype(dtype, place))
        return load_biggan(name, files, truncation=truncation, device=place, dtype=number_format)


def check_truncation(truncation: object) -> float:
    """The truncation as a float.

    Raises:
        ValueError: it is no number above 0 and at most 1.
    """
    return check_number("truncation", truncation, 0, 1, above=True, such_as="1")


def generators() -> list[dict[str, Any]]:
    """The table of generators with what is known on this machine; reads no weights and needs no torch.

    Fields: name, image_size, classes, parameters, flops_per_image, learned_from, weights (path or None). Where neither
    the weights nor a published configuration are there, classes, parameters and flops_per_image are None.
    """
    rows = []
    for name, info in GENERATORS.items():
        files = find_weights(name)
        config = files.config if files is not None else PUBLISHED_CONFIGS.get(name)
        rows.append(
            {
                "name": name,
                "image_size": info.image_size,
                "classes": config["num_classes"] if config else None,
                "parameters": count_parameters(config) if config else None,
                "flops_per_image": count_flops(config) if config else None,
                "learned_from": info.learned_from,
                "weights": str(files.path) if files is not None else None,
            }
        )
    return rows
