"""What a run reads: the groups of a dataset, real images among them where asked, picked as the objective needs them.

facts = find_facts(dataset, with_latents=False)
batches = assemble_batches(config, build_objective(config, facts), dataset, None, place, RunOptions())
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np

from contrast.batches import Batches, flatten_latents
from contrast.config import TrainConfig
from contrast.distributed import Place
from contrast.mixing import MixedBatches, match_classes, seed_of_real
from contrast.objectives import GroupFacts, Objective
from contrast.positives import PickedBatches
from contrast.readers import open_batches
from contrast.run_options import RunOptions
from shards.dataset import GroupDataset

NUM_GROUPS_OF_VARIANCE = 256


def find_facts(dataset: GroupDataset, *, with_latents: bool) -> GroupFacts:
    """What the groups have to offer; looks into some of them only for the latents.

    Raises:
        DamageError: a group's latents cannot be read.
    """
    facts = GroupFacts(num_images=dataset.num_images, classes=dataset.classes)
    if not (with_latents and dataset.manifest.recipe.store_latents):
        return facts
    count = min(len(dataset), NUM_GROUPS_OF_VARIANCE)
    latents = np.concatenate([flatten_latents(dataset.latents(index)) for index in range(count)]).astype(np.float64)
    variance = float(latents.var(axis=0).mean())
    return dataclasses.replace(facts, latent_dim=latents.shape[1], latent_variance=variance)


def open_real(config: TrainConfig, directory: Path | None, dataset: GroupDataset) -> GroupDataset | None:
    """The dataset of the real images to mix in; None where none are.

    Raises:
        ValueError: there is none, or its images are of another size.
    """
    if config.mix_share == 0:
        return None
    if directory is None:
        raise ValueError(f"mix share {config.mix_share}: say where the real images are, --mix real=DIR:SHARE")
    real = GroupDataset(directory)
    if real.image_size != dataset.image_size:
        raise ValueError(
            f"--mix: {directory} holds images of {real.image_size} px, {dataset.location} of {dataset.image_size} px; "
            "use one size"
        )
    if config.num_real > len(real):
        raise ValueError(
            f"--mix: a share of {config.mix_share} of {config.batch_size} groups is {config.num_real} real images, and "
            f"{directory} holds {len(real)}: use a smaller --batch-size or share, or more real images"
        )
    return real


def assemble_batches(
    config: TrainConfig,
    objective: Objective,
    dataset: GroupDataset,
    real: GroupDataset | None,
    place: Place,
    options: RunOptions,
) -> Batches:
    """`objective.num_images` images of every group, and with them of the real ones where there are any.

    Raises:
        ValueError: the batch or the reader does not fit, or classes of the real images are needed and have no
            generated namesakes.
    """
    read = partial(
        open_batches,
        rank=place.rank,
        world_size=place.world_size,
        num_workers=options.num_workers,
        memory_bytes=options.memory_bytes,
    )
    batches = read(
        dataset,
        reader=options.reader,
        batch_size=config.num_generated,
        seed=config.seed,
        beton=options.beton,
        latents=dataset.latents if objective.needs_latents else None,
    )
    picked = PickedBatches(
        batches,
        positives=config.positives,
        num_images=objective.num_images,
        batch_size=config.num_generated,
        seed=config.seed,
        rank=place.rank,
        world_size=place.world_size,
    )
    if real is None:
        return picked
    return MixedBatches(
        picked,
        read(real, reader="tar", batch_size=config.num_real, seed=seed_of_real(config.seed)),
        num_images=objective.num_images,
        first_index=len(dataset),
        num_parts=config.accumulate,
        classes=match_classes(dataset.class_names, real.class_names) if objective.needs_classes else None,
    )
