"""From what the user asks for to a job that can only succeed or run out of disk: all checks before the first pass.

job = prepare_job(RenderConfig(n=4000, out=Path("datasets/demo")))
state = survey_folder(job)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shards.canonical import first_difference
from shards.codec import default_subsampling
from shards.manifest import MANIFEST_NAME, Manifest, load_manifest
from shards.recipe import Recipe, RenderSettings
from shards.survey import completed_shards
from shards.work import WorkPlan
from synthgen.adapters import DEFAULT_GENERATOR, GENERATORS, load_generator
from synthgen.class_weights import parse_class_weights
from synthgen.classes import parse_classes
from synthgen.config import RenderConfig
from synthgen.original import read_original
from synthgen.plan import ShardPlan, plan_shards
from synthgen.settings import choose_batch_size, dtype_to_ask_for, stored_settings
from synthgen.vectors import VectorFiles
from synthgen.views import policy_from_recipe

if TYPE_CHECKING:
    import torch

    from synthgen.adapters.protocol import Generator

DEFAULT_SHARD_SIZE = 1000


@dataclass(frozen=True, kw_only=True)
class RenderJob:
    """A checked request: what to render, with what, and into which kind of shards."""

    directory: Path
    num_groups: int
    recipe: Recipe
    render: RenderSettings
    shard_size: int
    generator: Generator
    """On `device`; with several devices, on the CPU unless prepared to measure: their processes load their own."""
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


def prepare_job(
    config: RenderConfig, *, elsewhere: Literal["cpu", "cuda"] | None = None, to_measure: bool = False
) -> RenderJob:
    """Loads the generator and settles every choice; the folder is read, not written.

    What decides the bytes but not the recipe (batch, dtype, compiled or not, shard size) is taken from the folder where
    it is not given. Passes are not compiled yet: who renders does it.

    Args:
        elsewhere: the kind of device of the machines that will render, where this one only hands out the work. Of
            GPUs that are not here it is assumed that they multiply bfloat16.
        to_measure: load the generator on the first of several devices, to try it there, and not on the CPU.

    Raises:
        ValueError: anything about the request that cannot work, with the fix.
    """
    import torch

    from synthgen.devices import choose_devices, explain_out_of_memory, on_device

    devices = choose_devices(config.devices) if elsewhere is None else (torch.device("cpu"),)
    loads_on = devices[0] if len(devices) == 1 or to_measure else torch.device("cpu")
    if config.manifest is not None:
        return _job_from_manifest(config, devices=devices, loads_on=loads_on)
    assert config.n is not None
    stored, stored_shard_size = stored_settings(config.out)
    renders_on = devices[0] if elsewhere is None else torch.device(elsewhere)
    asked_dtype = config.dtype
    if asked_dtype == "auto" and stored is None and elsewhere == "cuda":
        asked_dtype = "bfloat16"
    known_batch_size = config.batch_size or (stored.batch_size if stored else None)
    with explain_out_of_memory(loads_on, batch_size=known_batch_size), on_device(loads_on):
        generator = load_generator(
            config.generator,
            weights=config.weights,
            truncation=config.truncation,
            device=loads_on,
            dtype=dtype_to_ask_for(config.generator, asked_dtype, stored=stored, device=devices[0]),
        )
    batch_size = choose_batch_size(generator, config.batch_size, stored=stored, device=renders_on)
    if config.generator not in GENERATORS:
        from synthgen.adapters.probing import probe_generator

        with explain_out_of_memory(loads_on, batch_size=batch_size), on_device(loads_on):
            probe_generator(generator, batch_size=batch_size, device=loads_on, truncation=config.truncation)
    compiled = config.compile if config.compile is not None else stored is not None and stored.compiled
    for found in config.view_policy().vectors:
        found.check_generator(generator)
    return RenderJob(
        directory=config.out,
        num_groups=config.n,
        recipe=make_recipe(config, generator),
        render=RenderSettings(batch_size=batch_size, dtype=generator.dtype, compiled=compiled),
        shard_size=config.shard_size or stored_shard_size or DEFAULT_SHARD_SIZE,
        generator=generator,
        devices=devices,
        vectors=VectorFiles.of(config.walks, config.directions),
    )


def _job_from_manifest(config: RenderConfig, *, devices: tuple[torch.device, ...], loads_on: torch.device) -> RenderJob:
    """The job that makes what config.manifest describes, its generator loaded on one device.

    Raises:
        ValueError: no generator made it, its weights are not these, its views are of no policy, or the folder
            holds another dataset.
        DamageError: the manifest is not as it was written.
    """
    from synthgen.rerender import load_recorded_generator

    manifest = read_original(config).manifest
    vectors = VectorFiles.of(config.walks, config.directions)
    for entry in manifest.recipe.views:  # refused before the folder is made
        policy_from_recipe(entry, vectors=vectors)
    return RenderJob(
        directory=config.out,
        num_groups=manifest.num_groups,
        recipe=manifest.recipe,
        render=manifest.render,
        shard_size=manifest.shard_size,
        generator=load_recorded_generator(
            manifest.recipe,
            named=config.generator if config.generator != DEFAULT_GENERATOR else None,
            weights=config.weights,
            device=loads_on,
            dtype=manifest.render.dtype,
            batch_size=manifest.render.batch_size,
        ),
        devices=devices,
        vectors=vectors,
    )


def make_recipe(config: RenderConfig, generator: Generator) -> Recipe:
    """The recipe that a request and a loaded generator amount to.

    Raises:
        ValueError: the classes are not the generator's, or views keep a class and it has none.
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
    if generator.config_sha256 is not None:
        source["config_sha256"] = generator.config_sha256
    if config.class_weights is not None:
        weights = parse_class_weights(config.class_weights, classes=classes, **known)
        if weights:  # alike, they are no weights: the recipe is the one without
            source["class_weights"] = {str(label): weight for label, weight in weights.items()}
    views = config.view_policy().recipe()
    policies = [views["policy"], *(component["policy"] for component in views.get("components", ()))]
    if "independent" in policies and not classes and config.num_views:
        raise ValueError(
            f"views {config.views}: {generator.name} has no classes, so an independent view has nothing in common with "
            "its anchor: use another policy, such as gaussian"
        )
    return Recipe(
        source=source,
        classes=classes,
        views=(views,) * config.num_views,
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
    here = describe_environment(job.device, compiled=job.render.compiled)
    differences = (first_difference(marker.environment, here, other_is="here") for marker in done.values())
    return FolderState(
        num_groups=num_groups,
        shards=tuple(shards),
        missing=tuple(missing),
        manifest=manifest if finished else None,
        other_environment=next((text for text in differences if text is not None), None),
    )
