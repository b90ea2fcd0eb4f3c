"""From what the user asks for to a job that can only succeed or run out of disk: all checks before the first pass.

manifest = render_dataset(RenderConfig(n=4000, out=Path("datasets/demo")))
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from shards.canonical import first_difference
from shards.codec import default_subsampling
from shards.console import format_bytes, parse_count
from shards.manifest import (
    LARGEST_NUM_GROUPS,
    MANIFEST_NAME,
    Manifest,
    Recipe,
    RenderSettings,
    load_manifest,
)
from shards.writer import completed_shards, lock_dataset, scan_markers
from synthgen.adapters import DEFAULT_GENERATOR, check_truncation, generator_info, load_generator
from synthgen.plan import ShardPlan, parse_classes, plan_shards
from synthgen.views import make_policy

if TYPE_CHECKING:
    import torch

    from synthgen.adapters.protocol import Generator
    from synthgen.estimate import Estimate

DEFAULT_SHARD_SIZE = 1000
FREE_OPTIONS = frozenset({"manifest", "out", "weights", "device", "dry_run", "quiet"})
"""What may be said beside a manifest; it decides everything else."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Everything that `synthgen render` can be told; the defaults are its defaults."""

    n: int | None = None
    """Number of groups; None beside a manifest."""
    out: Path
    """The dataset's folder: new, empty, or a dataset of the same recipe to resume or grow."""
    generator: str = DEFAULT_GENERATOR
    """Name in the table of generators."""
    weights: Path | None = None
    """Folder or file with the generator's weights; None for the built-in or published ones."""
    views: str = "gaussian"
    """Name of the view policy."""
    std: float | None = None
    """The gaussian policy's nominal standard deviation; None for its default."""
    num_views: int = 1
    """Views per group, beside the anchor."""
    truncation: float = 1.0
    """In (0, 1]: scales every latent and picks the statistics of the norms."""
    classes: str | Sequence[int] = "all"
    """all, ids such as 0,3,7, or a file with one id per line; from Python also [0, 3, 7]."""
    seed: int = 0
    """Key of every draw."""
    size: int | None = None
    """Height and width of the stored images; None for the generator's own."""
    format: str = "jpg"
    """jpg or png."""
    quality: int | None = None
    """JPEG quality; None for 95."""
    shard_size: int | None = None
    """Groups per shard; None for the folder's, or 1000."""
    batch_size: int | None = None
    """Images per forward pass; None for the folder's, or what suits generator and device."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    dtype: str = "auto"
    """auto, float32 or bfloat16; auto is the folder's, or what the device multiplies fast."""
    store_latents: bool = False
    """Whether every group carries its latents as a member of its own."""
    manifest: Path | None = None
    """A manifest.json, or the folder that holds it, to render again: it decides all but out, weights and device."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "weights", Path(self.weights) if self.weights is not None else None)
        if self.manifest is not None:
            object.__setattr__(self, "manifest", Path(self.manifest))
            fields = self.__dataclass_fields__.values()
            check_beside_manifest(field.name for field in fields if getattr(self, field.name) != field.default)
            return
        if self.n is None:
            raise ValueError("no --n: say how many groups, or give --from a manifest that says it")
        generator_info(self.generator)
        check_truncation(self.truncation)
        make_policy(self.views, std=self.std)
        _check_whole("n", self.n, 1, LARGEST_NUM_GROUPS)
        _check_whole("num_views", self.num_views, 1, 64)
        _check_whole("seed", self.seed, 0, 2**63 - 1)
        for name, highest in (("size", 4096), ("shard_size", LARGEST_NUM_GROUPS), ("batch_size", 100_000)):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1, highest)
        if self.format not in ("jpg", "png"):
            raise ValueError(f"format '{self.format}': give jpg or png")
        if self.quality is not None:
            if self.format != "jpg":
                raise ValueError("quality belongs to jpg: leave --quality away, or give --format jpg")
            _check_whole("quality", self.quality, 1, 100)


@dataclass(frozen=True, kw_only=True)
class RenderJob:
    """A checked request: what to render, with what, and into which kind of shards."""

    directory: Path
    num_groups: int
    recipe: Recipe
    render: RenderSettings
    shard_size: int
    generator: Generator
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class FolderState:
    """How much of a job its folder holds already."""

    num_groups: int
    """Groups that the folder will hold: those asked for, or more where a larger dataset stands there."""
    num_shards: int
    missing: tuple[ShardPlan, ...]
    """Shards to render, in order; one that only has to become longer comes last."""
    manifest: Manifest | None
    """The finished dataset that stands there, if any."""
    other_environment: str | None
    """The first difference between this machine and the one that made the shards there; their last bits may differ."""

    @property
    def missing_groups(self) -> int:
        """Groups still to be rendered."""
        return sum(shard.count for shard in self.missing)


def prepare_job(config: RenderConfig) -> RenderJob:
    """Loads the generator and settles every choice; the folder is read, not written.

    What decides the bytes but not the recipe (batch, dtype, shard size) is taken from the folder where it is not given.

    Raises:
        ValueError: anything about the request that cannot work, with the fix.
    """
    from synthgen.devices import choose_device, choose_dtype, explain_out_of_memory

    if config.manifest is not None:
        from synthgen.reproduction import job_from_manifest

        return job_from_manifest(config)
    assert config.n is not None
    stored, stored_shard_size = _stored_settings(config.out)
    device = choose_device(config.device)
    info = generator_info(config.generator)
    batch_size = config.batch_size or (
        stored.batch_size if stored else info.gpu_batch_size if device.type == "cuda" else info.cpu_batch_size
    )
    dtype = stored.dtype if stored and config.dtype == "auto" else choose_dtype(config.dtype, device)
    with explain_out_of_memory(device, batch_size=batch_size):
        generator = load_generator(
            config.generator, weights=config.weights, truncation=config.truncation, device=device, dtype=dtype
        )
    return RenderJob(
        directory=config.out,
        num_groups=config.n,
        recipe=make_recipe(config, generator),
        render=RenderSettings(batch_size=batch_size, dtype=dtype),
        shard_size=config.shard_size or stored_shard_size or DEFAULT_SHARD_SIZE,
        generator=generator,
        device=device,
    )


def make_recipe(config: RenderConfig, generator: Generator) -> Recipe:
    """The recipe that a request and a loaded generator amount to.

    Raises:
        ValueError: the classes are not the generator's.
    """
    size = config.size or generator.image_size
    image: dict[str, Any] = {"size": size, "format": config.format}
    if config.format == "jpg":
        image |= {"quality": config.quality or 95, "subsampling": default_subsampling(size)}
    return Recipe(
        source={
            "generator": generator.name,
            "weights_sha256": generator.weights_sha256,
            "truncation": float(config.truncation),
        },
        classes=parse_classes(config.classes, num_classes=generator.num_classes),
        views=(make_policy(config.views, std=config.std).recipe(),) * config.num_views,
        seed=config.seed,
        image=image,
        store_latents=config.store_latents,
    )


def survey_folder(job: RenderJob) -> FolderState:
    """What of a job is done and what is missing.

    Raises:
        ValueError: the folder holds another dataset, or more groups of an unfinished one than asked for.
    """
    from synthgen.devices import describe_environment

    done = completed_shards(job.directory, recipe=job.recipe, render=job.render, shard_size=job.shard_size)
    manifest = load_manifest(job.directory) if (job.directory / MANIFEST_NAME).exists() else None
    num_groups = max(job.num_groups, manifest.num_groups if manifest else 0)
    shards = plan_shards(num_groups=num_groups, shard_size=job.shard_size)
    missing = [shard for shard in shards if shard.index not in done or done[shard.index].count < shard.count]
    missing.sort(key=lambda shard: shard.index in done)  # stable: readers of the smaller dataset lose its end last
    held = max((marker.first + marker.count for marker in done.values()), default=0)
    finished = (
        manifest is not None
        and manifest.num_groups == num_groups
        and all(shard.index in done and done[shard.index].record == shard for shard in manifest.shards)
    )
    if held > num_groups and not finished:
        raise ValueError(
            f"{job.directory} holds {held} groups of an unfinished larger render, more than {num_groups}: "
            f"ask for --n {held} or more, and read a prefix of it"
        )
    here = describe_environment(job.device)
    differences = (first_difference(marker.environment, here) for marker in done.values())
    return FolderState(
        num_groups=num_groups,
        num_shards=len(shards),
        missing=tuple(missing),
        manifest=manifest if finished else None,
        other_environment=next((text for text in differences if text is not None), None),
    )


def estimate_group_bytes(recipe: Recipe) -> float:
    """Size of a group in its tar, from what natural images took at quality 95 (1.5 kB at 32 px, 4.9 kB at 128 px)."""
    pixels = int(recipe.image["size"]) ** 2
    if recipe.image["format"] == "png":
        image_bytes = 100 + 2.2 * pixels
    else:
        image_bytes = 800 + (500 + 0.21 * pixels) * int(recipe.image["quality"]) / 95
    members = 1 + recipe.num_views
    return members * (image_bytes + 512 + 256) + 1024 + (members * 1024 if recipe.store_latents else 0)


def free_bytes(directory: Path) -> int:
    """Space left on the disk where the folder is or will be."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_disk(job: RenderJob, state: FolderState) -> None:
    """Raises ValueError when the missing groups will not fit on the disk."""
    needed, left = state.missing_groups * estimate_group_bytes(job.recipe), free_bytes(job.directory)
    if needed > left:
        raise ValueError(
            f"{state.missing_groups} groups need about {format_bytes(needed)}, the disk of {job.directory} has "
            f"{format_bytes(left)} left: free some, choose another --out, or ask for a smaller --n"
        )


def render_dataset(config: RenderConfig, *, quiet: bool = False) -> Manifest:
    """Renders what is missing of a dataset and finishes it; progress goes to stderr.

    Raises:
        ValueError: the request cannot work as it stands; nothing was rendered.
        OSError: the disk is full or not writable; running the same again resumes.
    """
    from synthgen.runners.local import run_local

    job = prepare_job(config)
    with lock_dataset(job.directory):
        state = survey_folder(job)
        check_disk(job, state)
        return run_local(job, state, quiet=quiet)


@overload
def render(
    *, out: str | Path, n: int | str | None = None, dry_run: Literal[False] = False, quiet: bool = False, **options: Any
) -> Manifest: ...


@overload
def render(
    *, out: str | Path, n: int | str | None = None, dry_run: Literal[True], quiet: bool = False, **options: Any
) -> Estimate: ...


def render(
    *, out: str | Path, n: int | str | None = None, dry_run: bool = False, quiet: bool = False, **options: Any
) -> Manifest | Estimate:
    """`synthgen render` from Python: the options are RenderConfig's fields; n may be text such as "4k".

    With dry_run nothing is written, and what it would take is given. With manifest, the dataset that it describes is
    rendered and compared with it (`synthgen.reproduction.reproduce_dataset` gives the comparison).

    Raises:
        ValueError: the request cannot work as it stands; nothing was rendered.
        DamageError: what was rendered is not what the manifest describes, and nothing explains it.
    """
    config = config_from_options(n=n, out=out, options=options)
    if config.manifest is not None and not dry_run:
        from synthgen.reproduction import reproduce_dataset

        report = reproduce_dataset(config, quiet=quiet)
        if not quiet:
            print(report.describe(), file=sys.stderr, flush=True)
        return load_manifest(config.out)
    if not dry_run:
        return render_dataset(config, quiet=quiet)
    from synthgen.estimate import estimate_render

    job = prepare_job(config)
    return estimate_render(job, survey_folder(job))


def config_from_options(*, n: int | str | None, out: str | Path, options: Mapping[str, Any]) -> RenderConfig:
    """The request that Python's keywords amount to.

    Raises:
        ValueError: an option that there is not, a value out of its range, or one that a given manifest decides.
    """
    if options.get("manifest") is not None:
        check_beside_manifest(options)
    known = [name for name in RenderConfig.__dataclass_fields__ if name not in ("n", "out")]
    for name in options:
        if name not in known:
            raise ValueError(f"render has no option '{name}': choose from {', '.join(known)}")
    return RenderConfig(n=parse_count(n) if isinstance(n, str) else n, out=Path(out), **options)


def check_beside_manifest(given: Iterable[str]) -> None:
    """Raises ValueError when an option is given that a manifest decides."""
    for name in given:
        if name not in FREE_OPTIONS:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is decided by the manifest: leave it away, or render without --from")


def _stored_settings(directory: Path) -> tuple[RenderSettings | None, int | None]:
    """Render settings and shard size of the dataset in the folder, as far as they are known."""
    if (directory / MANIFEST_NAME).exists():
        manifest = load_manifest(directory)
        return manifest.render, manifest.shard_size
    markers = scan_markers(directory)
    sizes = [marker.first // index for index, marker in markers.items() if index > 0]
    render = next((marker.render for marker in markers.values()), None)
    return render, sizes[0] if sizes else None


def _check_whole(name: str, value: object, lowest: int, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(f"{name.replace('_', '-')} {value}: give a whole number from {lowest} to {highest}")
