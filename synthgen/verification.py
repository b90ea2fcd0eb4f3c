"""Whether a dataset is what its recipe says: a sample of its groups rendered again and compared.

`shards verify` finds what happened to the files since they were written; this finds what they should never have been.

    report = verify_render("datasets/demo", groups=64)
    report.ok, report.sameness.identical
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shards.canonical import JSON, first_difference
from shards.dataset import GroupDataset
from shards.manifest import Manifest, load_manifest
from shards.markers import read_marker
from shards.numbers import check_number, check_whole
from shards.progress import Progress
from shards.recipe import member_names
from synthgen.vectors import VectorFiles
from synthgen.views import policy_from_recipe

if TYPE_CHECKING:
    import torch

    from synthgen.sameness import Sameness

_GROUPS_PER_BLOCK = 8
DTYPES = ("same", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class RenderVerification:
    """What verify_render found."""

    directory: str
    generator: str
    device: str
    dtype: str
    compiled: bool
    seed: int
    """Of the choice of groups."""
    blocks: int
    """Forward batches that were rendered again, anchors and views each."""
    rendered_groups: int
    """Groups in those blocks, of which `sameness.groups` were compared."""
    seconds: float
    sameness: Sameness

    @property
    def ok(self) -> bool:
        """Whether the sample is what is promised; see `synthgen.sameness.Sameness.ok`."""
        return self.sameness.ok

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {**self.__dict__, "sameness": self.sameness.to_json(), "ok": self.ok}


def verify_render(
    directory: str | Path,
    *,
    groups: int | str = 64,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: str = "same",
    compile: bool | None = None,
    generator: str | Path | None = None,
    weights: str | Path | None = None,
    walks: str | Path | None = None,
    directions: str | Path | None = None,
    tolerance: float | None = None,
    quiet: bool = False,
) -> RenderVerification:
    """Renders a sample of a finished dataset's groups again and compares plan, bytes and pixels.

    Whole blocks are rendered, because a group's last bits depend on its place in a batch; a block serves eight groups
    of the sample, more where the dataset has too few blocks. Time and memory do not grow with the dataset.

    Args:
        groups: how many to compare; all where the dataset holds fewer.
        seed: chooses them.
        device: auto, cpu, cuda or cuda:1.
        dtype: same (the dataset's), float32 or bfloat16: another one measures what the dataset's own does to pixels.
        compile: whether to compile the passes; None for as the dataset's were. The other way measures what it does.
        generator: the dataset's generator, said again; needed only where that is a function module:function, which
            is then imported and run.
        weights: folder or file; None for the usual ones.
        walks, directions: files of the vectors that the views walk along, where they are not the package's own.
        tolerance: mean difference of an image, of 255 levels, up to which it is close; None for what suits the codec.

    Raises:
        ValueError: no finished dataset, other weights, or an option that cannot work.
        DamageError: a shard is missing, truncated, or does not decode.
    """
    from synthgen.adapters.compiling import compile_passes
    from synthgen.devices import choose_device, describe_environment
    from synthgen.rerender import group_members, load_recorded_generator, render_blocks
    from synthgen.sameness import Comparison

    began = time.monotonic()
    groups, seed = check_whole("groups", groups, 1), check_whole("seed", seed, 0)
    if dtype not in DTYPES:
        raise ValueError(f"dtype '{dtype}': give one of {', '.join(DTYPES)}")
    if tolerance is not None:
        tolerance = check_number("tolerance", tolerance, 0, 255, such_as="1.5")
    directory = Path(directory)
    manifest = load_manifest(directory)
    vectors = VectorFiles.of(*(Path(path) for path in (walks, directions) if path is not None))
    for view in manifest.recipe.views:
        policy_from_recipe(view, vectors=vectors)  # told before the generator is loaded
    place = choose_device(str(device))
    number_format = manifest.render.dtype if dtype == "same" else dtype
    loaded = load_recorded_generator(
        manifest.recipe,
        named=None if generator is None else str(generator),
        weights=Path(weights) if weights is not None else None,
        device=place,
        dtype=number_format,
        batch_size=manifest.render.batch_size,
    )
    settings = replace(
        manifest.render, dtype=number_format, compiled=manifest.render.compiled if compile is None else compile
    )
    if settings.compiled:
        loaded = compile_passes(loaded, batch_size=settings.batch_size, device=place)
    here = describe_environment(place, compiled=settings.compiled)
    other_settings = manifest.render.difference(settings)
    sample = choose_groups(manifest, groups=groups, seed=seed)
    dataset, names = GroupDataset(directory), member_names(manifest.recipe)
    comparison = Comparison(manifest, tolerance=tolerance)
    environments: dict[int, str | None] = {}
    again = render_blocks(manifest, loaded, list(sample), device=place, vectors=vectors)
    with (
        closing(again) as blocks,
        Progress(total=min(groups, manifest.num_groups), unit="groups", label="verifying", quiet=quiet) as progress,
    ):
        for (first, indices), (draws, pixels) in zip(sample.items(), blocks, strict=True):
            for index in indices:
                shard = index // manifest.shard_size
                if shard not in environments:
                    environments[shard] = other_settings or environment_difference(directory, shard, here)
                comparison.add(
                    index,
                    stored=[dataset.read(index, name) for name in names],
                    again=group_members(manifest.recipe, loaded, draws, pixels, index - first, first=first),
                    elsewhere=environments[shard],
                )
            progress.advance(len(indices))
    return RenderVerification(
        directory=str(directory),
        generator=loaded.name,
        device=str(place),
        dtype=number_format,
        compiled=settings.compiled,
        seed=seed,
        blocks=len(sample),
        rendered_groups=len(sample) * manifest.render.batch_size,
        seconds=time.monotonic() - began,
        sameness=comparison.result(),
    )


def choose_groups(manifest: Manifest, *, groups: int, seed: int) -> dict[int, list[int]]:
    """So many different groups, ascending, by the first index of their blocks; all where there are fewer.

    A few whole blocks are chosen first and then groups among theirs, so that large render batches do not multiply the
    work; every block, and in it every group, is as likely as any other.
    """
    random = np.random.default_rng(seed)
    batch_size, num_groups = manifest.render.batch_size, manifest.num_groups
    groups = min(groups, num_groups)
    num_blocks = -(-num_groups // batch_size)
    last_size = num_groups - (num_blocks - 1) * batch_size
    wanted = min(num_blocks, max(-(-groups // batch_size), -(-groups // _GROUPS_PER_BLOCK)))
    if wanted < num_blocks and wanted * batch_size - (batch_size - last_size) < groups:
        wanted += 1  # the short last block may be among them
    blocks = np.sort(random.choice(num_blocks, wanted, replace=False))
    candidates = np.concatenate(
        [np.arange(b * batch_size, min((b + 1) * batch_size, num_groups)) for b in blocks.tolist()]
    )
    chosen = np.sort(random.choice(candidates, groups, replace=False)).tolist()
    sample: dict[int, list[int]] = {}
    for index in chosen:
        sample.setdefault(index // batch_size * batch_size, []).append(index)
    return sample


def environment_difference(directory: Path, shard: int, here: dict[str, str]) -> str | None:
    """The first difference between what a shard was rendered in and `here`; None where there is none."""
    marker = read_marker(directory, shard)
    if marker is None:
        return "its marker is missing, so where it was rendered is not known"
    return first_difference(marker.environment, here, other_is="here")
