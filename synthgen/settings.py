"""What decides the last bits and not the recipe, dtype and batch: as asked for, as the folder has it, or what suits.

stored, shard_size = stored_settings(Path("datasets/demo"))
dtype = dtype_to_ask_for("biggan-deep-32", "auto", stored=None, device=device)
batch_size = choose_batch_size(generator, None, stored=None, device=device)
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from shards.manifest import MANIFEST_NAME, load_manifest
from shards.markers import scan_markers
from shards.recipe import RenderSettings
from shards.work import read_plan
from synthgen.adapters import GENERATORS
from synthgen.adapters.own_names import kind_of_name

if TYPE_CHECKING:
    import torch

    from synthgen.adapters.protocol import Generator


def stored_settings(directory: Path) -> tuple[RenderSettings | None, int | None]:
    """Render settings and shard size of the dataset in the folder, as far as they are known."""
    if (directory / MANIFEST_NAME).exists():
        manifest = load_manifest(directory)
        return manifest.render, manifest.shard_size
    markers = scan_markers(directory)
    sizes = Counter(marker.first // index for index, marker in markers.items() if index > 0)
    plan = read_plan(directory)
    renders = Counter(marker.render for marker in markers.values())
    # The most common of each: one marker may be damaged.
    render = renders.most_common(1)[0][0] if renders else None
    return render, sizes.most_common(1)[0][0] if sizes else plan.shard_size if plan and markers else None


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
                f"{generator.name} was exported for batches of {fixed}: omit --batch-size, or export it with a "
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
