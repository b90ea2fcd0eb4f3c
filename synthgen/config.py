"""What `synthgen render` can be told, from the command line or from Python, and which of it goes together.

config = RenderConfig(n=4000, out=Path("datasets/demo"), std=0.5)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from shards.manifest import LARGEST_NUM_GROUPS
from shards.numbers import check_flag, check_whole
from synthgen.adapters import DEFAULT_GENERATOR, check_generator_name, check_truncation
from synthgen.views import ViewPolicy
from synthgen.views.options import policy_from_options

if TYPE_CHECKING:
    import torch

    from synthgen.job import RenderJob

RUNNERS = ("local", "slurm", "ray")
FREE_OPTIONS = frozenset(
    {"manifest", "out", "generator", "weights", "walks", "directions", "devices", "dry_run", "quiet"}
    | {"task_index", "task_count", "runner", "tasks", "slurm"}
)
"""What may be said beside a manifest, where files lie and who renders; it decides everything else."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Everything that `synthgen render` can be told; the defaults are its defaults."""

    n: int | None = None
    """Number of groups; None beside a manifest."""
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
    """steer: which walks, such as zoom,brightness; None for all in the file."""
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
    """Seed of every random draw."""
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
    compile: bool | None = None
    """Whether torch.compile fuses the passes: faster on some devices, other last bits, half a minute of compiling in
    every process that finds nothing compiled; None for the folder's, or no."""
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
    manifest: Path | None = None
    """A manifest.json, or the folder that holds it, to render again: it decides all but FREE_OPTIONS."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        for name in ("generator", "devices"):  # a Path, a torch.device
            object.__setattr__(self, name, str(getattr(self, name)))
        if isinstance(self.classes, Path):
            object.__setattr__(self, "classes", str(self.classes))
        for name in ("weights", "walks", "directions", "manifest"):
            object.__setattr__(self, name, Path(getattr(self, name)) if getattr(self, name) is not None else None)
        self._check_runner()
        if self.manifest is not None:
            fields = self.__dataclass_fields__.values()
            check_beside_manifest(field.name for field in fields if getattr(self, field.name) != field.default)
            return
        if self.n is None:
            raise ValueError("no n: give --n, how many groups, or a manifest that says it (--from)")
        check_generator_name(self.generator)
        object.__setattr__(self, "truncation", check_truncation(self.truncation))
        self.view_policy()
        for name, lowest, highest in (
            ("n", 1, LARGEST_NUM_GROUPS),
            ("num_views", 0, 64),
            ("seed", 0, 2**63 - 1),
            ("size", 1, 4096),
            ("shard_size", 1, LARGEST_NUM_GROUPS),
            ("batch_size", 1, 100_000),
        ):
            self._check_whole(name, lowest, highest)
        if self.num_views == 0:
            of_views = ("views", "std", "radius", "degrees", "strength", "edits", "walks", "directions")
            given = [name for name in of_views if getattr(self, name) != self.__dataclass_fields__[name].default]
            if given:
                raise ValueError(f"num-views 0: there are no views to make; omit --{given[0]}")
        for name in ("store_latents", "compile"):
            if getattr(self, name) is not None:
                check_flag(name, getattr(self, name))
        if self.format not in ("jpg", "png"):
            raise ValueError(f"format '{self.format}': give jpg or png")
        if self.quality is not None:
            if self.format != "jpg":
                raise ValueError("quality belongs to jpg: omit --quality, or give --format jpg")
            self._check_whole("quality", 1, 100)

    def _check_whole(self, name: str, lowest: int, highest: int) -> None:
        if getattr(self, name) is not None:
            object.__setattr__(self, name, check_whole(name, getattr(self, name), lowest, highest))

    def _check_runner(self) -> None:
        self._check_whole("task_count", 1, LARGEST_NUM_GROUPS)
        self._check_whole("task_index", 0, (self.task_count or LARGEST_NUM_GROUPS) - 1)
        if self.runner not in RUNNERS:
            raise ValueError(f"no runner '{self.runner}': choose one of {', '.join(RUNNERS)}")
        self._check_whole("tasks", 1, 100_000)
        if self.runner == "local" and self.tasks is not None:
            raise ValueError("tasks belongs to the runners slurm and ray: omit --tasks, or give --runner slurm")
        if self.runner != "local" and (self.task_index is not None or self.task_count is not None):
            raise ValueError(f"the runner {self.runner} cuts the job itself: give --tasks, not --task-index")
        if self.slurm and self.runner != "slurm":
            raise ValueError("slurm belongs to the runner slurm: omit --slurm, or give --runner slurm")
        if self.slurm:
            parse_slurm_options(self.slurm)

    def settled(self, job: RenderJob) -> RenderConfig:
        """The same request with all said that two machines, or two devices, might settle differently."""
        if self.manifest is not None:
            return self  # it says so itself
        render = job.render
        return replace(
            self,
            batch_size=render.batch_size,
            dtype=render.dtype,
            compile=render.compiled,
            shard_size=job.shard_size,
        )

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


class RenderOptions(TypedDict, total=False):
    """Fields of RenderConfig as keywords, for those that are given beside n, out and the task."""

    generator: str | Path
    weights: str | Path | None
    views: str
    std: float | None
    radius: float | None
    degrees: float | None
    strength: float | None
    edits: str | Sequence[str] | None
    walks: str | Path | None
    directions: str | Path | None
    num_views: int
    truncation: float
    classes: str | Path | Sequence[int | str]
    class_weights: str | Mapping[int | str, int] | None
    seed: int
    size: int | None
    format: str
    quality: int | None
    shard_size: int | str | None
    batch_size: int | str | None
    devices: str | torch.device
    dtype: str
    compile: bool | None
    store_latents: bool
    runner: str
    tasks: int | None
    slurm: str
    manifest: str | Path | None


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
    fields: dict[str, Any] = {"n": n, "out": Path(out), **options}
    return RenderConfig(**fields)


def check_beside_manifest(given: Iterable[str]) -> None:
    """Raises ValueError when an option is given that a manifest decides."""
    for name in given:
        if name not in FREE_OPTIONS:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is decided by the manifest: omit it, or render without --from")


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
