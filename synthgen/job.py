"""From what the user asks for to a job that can only succeed or run out of disk: all checks before the first pass.

manifest = render_dataset(RenderConfig(n=4000, out=Path("datasets/demo")))
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from shards.canonical import first_difference
from shards.codec import default_subsampling
from shards.console import format_bytes, parse_count
from shards.folder import share_dataset
from shards.manifest import (
    LARGEST_NUM_GROUPS,
    MANIFEST_NAME,
    Manifest,
    Recipe,
    RenderSettings,
    load_manifest,
)
from shards.work import WorkPlan, begin_work
from shards.writer import completed_shards, lock_dataset, scan_markers
from synthgen.adapters import DEFAULT_GENERATOR, GENERATORS, check_generator_name, check_truncation, load_generator
from synthgen.class_weights import parse_class_weights
from synthgen.classes import parse_classes
from synthgen.plan import ShardPlan, plan_shards
from synthgen.settings import choose_batch_size, dtype_to_ask_for
from synthgen.vectors import VectorFiles
from synthgen.views import ViewPolicy, policy_from_options

if TYPE_CHECKING:
    import torch

    from synthgen.adapters.protocol import Generator
    from synthgen.estimate import Estimate

DEFAULT_SHARD_SIZE = 1000
RUNNERS = ("local", "slurm", "ray")


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Everything that `synthgen render` can be told; the defaults are its defaults."""

    n: int
    """Number of groups."""
    out: Path
    """The dataset's folder: new, empty, or a dataset of the same recipe to resume or grow."""
    generator: str = DEFAULT_GENERATOR
    """Name in the table of generators, module:function, or FILE.pt2."""
    weights: Path | None = None
    """Folder or file with the generator's weights; None for the built-in or published ones."""
    views: str = "gaussian"
    """Name of the view policy, or mixture:POLICY[:NAME=VALUE …]@WEIGHT+…"""
    std: float | None = None
    """gaussian, directions: nominal standard deviation of the step; None for the policy's default."""
    radius: float | None = None
    """ball: longest step; None for its default."""
    degrees: float | None = None
    """angular: largest angle; None for its default."""
    strength: float | None = None
    """steer: largest alpha; None for its default."""
    edits: str | Sequence[str] | None = None
    """steer: which walks, such as zoom,rotate; None for all in the file."""
    walks: Path | None = None
    """steer: file of `synthgen steer train`; None for the generator's own, where the package has them."""
    directions: Path | None = None
    """directions: file of `synthgen directions`."""
    num_views: int = 1
    """Views per group, beside the anchor."""
    truncation: float = 1.0
    """In (0, 1]: scales every latent and picks the statistics of the norms."""
    classes: str | Sequence[int | str] = "all"
    """all, ids such as 0,3,7, names, imagenet100, or a file with one class per line; from Python also [0, 3, 7]."""
    class_weights: str | Mapping[int | str, int] | None = None
    """0:3,cat:2, or a file with one class:weight per line; from Python also {0: 3}. Other classes have weight 1."""
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
    devices: str = "auto"
    """auto (all GPUs, or the CPU), cpu, cpu:2 (two processes), cuda (all GPUs) or cuda:0,cuda:1."""
    dtype: str = "auto"
    """auto, float32 or bfloat16; auto is the folder's, or what the device multiplies fast."""
    store_latents: bool = False
    """Whether every group carries its latents as a member of its own."""
    task_index: int | None = None
    """Which of task_count tasks this is, from 0 on; None outside a Slurm array for the whole job."""
    task_count: int | None = None
    """Into how many tasks the job is cut; shard s belongs to task s % task_count."""
    runner: str = "local"
    """Who runs the tasks: local (this process), slurm or ray."""
    tasks: int | None = None
    """slurm and ray: into how many tasks to cut the job; None for the runner's choice."""
    slurm: str = ""
    """slurm: options of sbatch, such as partition=gpu,gpus_per_node=1,time=60."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        for name in ("weights", "walks", "directions"):
            object.__setattr__(self, name, Path(getattr(self, name)) if getattr(self, name) is not None else None)
        check_generator_name(self.generator)
        check_truncation(self.truncation)
        self.view_policy()
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
        self._check_runner()

    def _check_runner(self) -> None:
        if self.task_count is not None:
            _check_whole("task_count", self.task_count, 1, LARGEST_NUM_GROUPS)
        if self.task_index is not None:
            _check_whole("task_index", self.task_index, 0, (self.task_count or LARGEST_NUM_GROUPS) - 1)
        if self.runner not in RUNNERS:
            raise ValueError(f"no runner '{self.runner}': choose one of {', '.join(RUNNERS)}")
        if self.tasks is not None:
            _check_whole("tasks", self.tasks, 1, 100_000)
        if self.runner == "local" and self.tasks is not None:
            raise ValueError("tasks belongs to the runners slurm and ray: leave --tasks away, or give --runner slurm")
        if self.runner != "local" and (self.task_index is not None or self.task_count is not None):
            raise ValueError(f"the runner {self.runner} cuts the job itself: give --tasks, not --task-index")
        if self.slurm and self.runner != "slurm":
            raise ValueError("slurm belongs to the runner slurm: leave --slurm away, or give --runner slurm")
        if self.slurm:
            parse_slurm_options(self.slurm)

    def view_policy(self) -> ViewPolicy:
        """The policy that the options amount to; reads the files that it needs.

        Raises:
            ValueError: no such policy, or an option that is not its own.
        """
        return policy_from_options(
            self.views,
            generator=self.generator,
            std=self.std,
            radius=self.radius,
            degrees=self.degrees,
            strength=self.strength,
            edits=self.edits,
            walks=self.walks,
            directions=self.directions,
        )


@dataclass(frozen=True, kw_only=True)
class RenderJob:
    """A checked request: what to render, with what, and into which kind of shards."""

    directory: Path
    num_groups: int
    recipe: Recipe
    render: RenderSettings
    shard_size: int
    generator: Generator
    """On `device`; with several devices, on the CPU: their processes load their own."""
    devices: tuple[torch.device, ...]
    """One for every process."""
    vectors: VectorFiles = field(default_factory=VectorFiles)
    """Where the view policy's walks or directions lie; workers read them by the sha256 in the recipe."""

    @property
    def device(self) -> torch.device:
        """The first of the devices, and of the same model as the others."""
        return self.devices[0]

    def plan(self, state: FolderState) -> WorkPlan:
        """What all who render this job agree on."""
        return WorkPlan(
            recipe_id=self.recipe.id, render=self.render, num_groups=state.num_groups, shard_size=self.shard_size
        )


@dataclass(frozen=True, kw_only=True)
class FolderState:
    """How much of a job its folder holds already."""

    num_groups: int
    """Groups that the folder will hold: those asked for, or more where a larger dataset stands there."""
    shards: tuple[ShardPlan, ...]
    """All shards that the folder will hold, in order."""
    missing: tuple[ShardPlan, ...]
    """Shards to render, in order; one that only has to become longer comes last."""
    manifest: Manifest | None
    """The finished dataset that stands there, if any."""
    other_environment: str | None
    """The first difference between this machine and the one that made the shards there; their last bits may differ."""

    @property
    def num_shards(self) -> int:
        """Shards that the folder will hold."""
        return len(self.shards)

    @property
    def missing_groups(self) -> int:
        """Groups still to be rendered."""
        return sum(shard.count for shard in self.missing)


def prepare_job(config: RenderConfig, *, elsewhere: Literal["cpu", "cuda"] | None = None) -> RenderJob:
    """Loads the generator and settles every choice; the folder is read, not written.

    What decides the bytes but not the recipe (batch, dtype, shard size) is taken from the folder where it is not given.

    Args:
        elsewhere: the kind of device of the machines that will render, where this one only hands out the work. Of
            GPUs that are not here it is assumed that they multiply bfloat16.

    Raises:
        ValueError: anything about the request that cannot work, with the fix.
    """
    import torch

    from synthgen.devices import choose_devices

    stored, stored_shard_size = _stored_settings(config.out)
    devices = choose_devices(config.devices) if elsewhere is None else (torch.device("cpu"),)
    renders_on = devices[0] if elsewhere is None else torch.device(elsewhere)
    asked_dtype = config.dtype
    if asked_dtype == "auto" and stored is None and elsewhere == "cuda":
        asked_dtype = "bfloat16"
    generator = load_generator(
        config.generator,
        weights=config.weights,
        truncation=config.truncation,
        device=devices[0] if len(devices) == 1 else "cpu",
        dtype=dtype_to_ask_for(config.generator, asked_dtype, stored=stored, device=devices[0]),
    )
    batch_size = choose_batch_size(generator, config.batch_size, stored=stored, device=renders_on)
    if config.generator not in GENERATORS:
        from synthgen.adapters.own_generator import probe_generator

        probe_generator(
            generator,
            batch_size=batch_size,
            device=devices[0] if len(devices) == 1 else torch.device("cpu"),
            truncation=config.truncation,
        )
    for found in config.view_policy().vectors:
        found.check_generator(generator)
    return RenderJob(
        directory=config.out,
        num_groups=config.n,
        recipe=make_recipe(config, generator),
        render=RenderSettings(batch_size=batch_size, dtype=generator.dtype),
        shard_size=config.shard_size or stored_shard_size or DEFAULT_SHARD_SIZE,
        generator=generator,
        devices=devices,
        vectors=VectorFiles(paths=tuple(path for path in (config.walks, config.directions) if path is not None)),
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
    known: dict[str, Any] = {"num_classes": generator.num_classes, "class_names": generator.class_names}
    classes = parse_classes(config.classes, **known)
    source: dict[str, Any] = {
        "generator": generator.name,
        "weights_sha256": generator.weights_sha256,
        "truncation": float(config.truncation),
    }
    if config.class_weights is not None:
        weights = parse_class_weights(config.class_weights, classes=classes, **known)
        if weights:  # alike, they are no weights: the recipe is the one without
            source["class_weights"] = {str(label): weight for label, weight in weights.items()}
    return Recipe(
        source=source,
        classes=classes,
        views=(config.view_policy().recipe(),) * config.num_views,
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
        shards=tuple(shards),
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


def render_dataset(config: RenderConfig, *, quiet: bool = False) -> Manifest | None:
    """Renders what is missing of a dataset and finishes it; progress goes to stderr.

    Of a task, only its own shards; the manifest is None where shards of other tasks are missing still.

    Raises:
        ValueError: the request cannot work as it stands; nothing was rendered.
        OSError: the disk is full or not writable; running the same again resumes.
    """
    if config.runner == "slurm":
        from synthgen.runners.slurm import run_slurm

        return run_slurm(config, quiet=quiet)
    if config.runner == "ray":
        from synthgen.runners.ray_cluster import run_ray

        return run_ray(config, quiet=quiet)
    from synthgen.runners.local import run_local
    from synthgen.runners.tasks import task_share

    share = task_share(config.task_index, config.task_count, os.environ)
    job = prepare_job(config)
    plan = job.plan(survey_folder(job)) if share else None
    with share_dataset(job.directory, plan) if plan else lock_dataset(job.directory) as lock:
        state = survey_folder(job)
        check_disk(job, state)
        if share is None and state.manifest is None:
            begin_work(job.directory, job.plan(state))
        return run_local(job, config, state, lock=lock, share=share, quiet=quiet)


def parse_slurm_options(text: str) -> dict[str, str | int]:
    """The options of sbatch in name=value,name=value; whole numbers become numbers.

    Raises:
        ValueError: a part of it is not name=value.
    """
    options: dict[str, str | int] = {}
    for part in text.split(",") if text else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise ValueError(f"slurm '{part}': give options of sbatch as name=value, such as partition=gpu,time=60")
        options[name.replace("-", "_")] = int(value) if value.isdecimal() else value
    return options


@overload
def render(
    *, n: int | str, out: str | Path, dry_run: Literal[True], quiet: bool = False, **options: Any
) -> Estimate: ...


@overload
def render(
    *,
    n: int | str,
    out: str | Path,
    task_index: int,
    task_count: int,
    dry_run: Literal[False] = False,
    quiet: bool = False,
    **options: Any,
) -> Manifest | None: ...


@overload
def render(
    *, n: int | str, out: str | Path, dry_run: Literal[False] = False, quiet: bool = False, **options: Any
) -> Manifest: ...


def render(
    *, n: int | str, out: str | Path, dry_run: bool = False, quiet: bool = False, **options: Any
) -> Manifest | Estimate | None:
    """`synthgen render` from Python: the options are RenderConfig's fields; n may be text such as "4k".

    With dry_run nothing is written, and what it would take is given. One task of several (task_index, or an array of
    Slurm around it) gives None while shards of the others are missing.

    Raises:
        ValueError: the request cannot work as it stands; nothing was rendered.
    """
    config = config_from_options(n=n, out=out, options=options)
    if not dry_run:
        return render_dataset(config, quiet=quiet)
    from synthgen.estimate import estimate_render

    job = prepare_job(config)
    return estimate_render(job, survey_folder(job))


def config_from_options(*, n: int | str, out: str | Path, options: Mapping[str, Any]) -> RenderConfig:
    """The request that Python's keywords amount to.

    Raises:
        ValueError: an option that there is not, or a value out of its range.
    """
    known = [name for name in RenderConfig.__dataclass_fields__ if name not in ("n", "out")]
    for name in options:
        if name not in known:
            raise ValueError(f"render has no option '{name}': choose from {', '.join(known)}")
    return RenderConfig(n=parse_count(n) if isinstance(n, str) else n, out=Path(out), **options)


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
