"""The training loop, top to bottom: read groups, augment their images, learn from them what the objective asks.

    summary = train_encoder(TrainConfig(steps=600), shards="datasets/tour", out="runs/tour")

Interrupted at any moment, the same call goes on and ends with the weights that it would have had anyway: on a CPU
with the same number of threads bit for bit. Under torchrun the batch is shared among the processes: the loss sees all
of it, batch normalisation each process's own share unless asked otherwise.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contrast.assembly import assemble_batches, find_facts, open_real
from contrast.augment import Transform, augment, compile_operations, draw_augmentation, keep_pixels
from contrast.batches import Batches
from contrast.checkpoint import resume_run
from contrast.config import TrainConfig
from contrast.devices import explain_out_of_memory, in_precision, to_device
from contrast.distributed import Place, process_group
from contrast.encoders import check_encoder_fits, count_parameters, to_encoder_layout
from contrast.isolation import own_torch
from contrast.mixing import own_rows
from contrast.network import TrainedNetwork, averaging_gradients, in_parallel
from contrast.objectives import OBJECTIVES, Objective, build_objective
from contrast.optimizer import build_optimizer, learning_rate_at, set_learning_rate
from contrast.readers import check_order
from contrast.recording import Recording
from contrast.run_folder import RunRecord, open_run, read_environment
from contrast.run_options import RunOptions, TrainSummary
from contrast.trained_on import describe_groups
from shards.progress import Progress
from shards.quantities import format_count
from shards.stream import open_dataset

_MORE_ROOM = "free some of it, use a smaller --batch-size or encoder, or learn from a batch in parts with --accumulate"


def train_encoder(
    config: TrainConfig,
    *,
    shards: str | Path,
    out: str | Path,
    n: int | str | None = None,
    mix: str | Path | None = None,
    options: RunOptions | None = None,
) -> TrainSummary:
    """Trains an encoder on the first n groups of a dataset, or on all, and leaves it in the folder `out`.

    Args:
        mix: the dataset of the real images, where config.mix_share asks for some.

    Raises:
        ValueError: the dataset, the folder or the device does not fit what is asked for.
        DamageError: a shard or the checkpoint is damaged.
    """
    options = options or RunOptions()
    with process_group(options.device) as place, own_torch(place.device, num_threads=options.num_threads):
        check_order(config.order, options.reader)
        config.check_processes(place.world_size)
        dataset = open_dataset(shards, n=n, cache=options.cache, cache_bytes=options.cache_bytes)
        facts = find_facts(dataset, with_latents=OBJECTIVES[config.objective].needs_latents)
        objective = build_objective(config, facts)
        check_encoder_fits(config.encoder, image_size=dataset.image_size)
        real = open_real(config, None if mix is None else Path(mix), dataset)
        batches = assemble_batches(config, objective, dataset, real, place, options)
        trained_on = describe_groups(config, dataset, real, num_processes=place.world_size)
        record = RunRecord(config=config, trained_on=trained_on)
        if not place.agree(record.to_json()):
            raise ValueError(
                "the processes were started with different settings or on different groups: start all of them with the "
                "same command and the same dataset"
            )
        run = Path(out)
        with ExitStack() as stack:
            stack.enter_context(explain_out_of_memory(place.device, fix=_MORE_ROOM))
            if place.is_first:
                stack.enter_context(open_run(run, record))
            return run_steps(record, objective, batches, run, place, options)


def run_steps(
    record: RunRecord, objective: Objective, batches: Batches, run: Path, place: Place, options: RunOptions
) -> TrainSummary:
    """The steps of a run that the folder `run` does not hold yet, of batches with `objective.num_images` images."""
    config, trained_on = record.config, record.trained_on
    # ------------------------------------------------------------------------------------------------------------------
    # Network and optimiser, as an earlier call left them

    device = place.device
    torch.manual_seed(config.seed)  # the same initial weights in every process
    network = TrainedNetwork(config, image_size=trained_on.image_size, objective=objective)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(config, network)
    first_step, loss_of_record = resume_run(run, record, network, optimizer)
    if not place.agree(first_step):
        raise ValueError(
            f"the processes found different checkpoints in {run}: give --out on a disk that all of them share"
        )
    parallel = in_parallel(network, place, sync_batchnorm=config.sync_batchnorm)
    to_images = _pixel_transform(config, options)

    num_images = config.batch_size * objective.num_images  # of the global batch
    rows = _rows_of_parts(config, objective, place)
    chance_loss = objective.chance_loss()
    quiet = options.quiet or not place.is_first
    progress = Progress(total=config.steps, unit="steps", label="training", initial=first_step, quiet=quiet)
    if first_step == config.steps:
        progress.note(f"{run} is finished ({config.steps} steps): nothing to do")
        return TrainSummary(run=str(run), steps=config.steps, loss=loss_of_record, chance_loss=chance_loss)
    progress.note(
        f"{config.objective}, {config.encoder} ({count_parameters(network.encoder) / 1e6:.1f} M parameters), "
        f"{format_count(trained_on.num_groups)} groups of {trained_on.num_images} images, {config.steps} steps of "
        f"{config.batch_size} groups ({config.steps / batches.steps_per_epoch:.1f} epochs), "
        f"{config.precision}, {device}"
    )
    if first_step > 0:
        progress.note(f"{run}: going on from step {first_step} of {config.steps}")
        before = (read_environment(run) or [{}])[-1] if place.is_first else {}
        if config.positives != "tz" and before.get("compiled", options.compile) != options.compile:
            progress.note("note: --compile is not as before: last bits differ from those of an undisturbed run")
        if before.get("num_processes", place.world_size) != place.world_size:
            progress.note(
                "note: the number of processes is not as before: the result differs from that of an undisturbed run"
            )

    # ------------------------------------------------------------------------------------------------------------------
    # The steps

    recording = Recording(
        run,
        record,
        network,
        optimizer,
        place=place,
        options=options,
        progress=progress,
        first_step=first_step,
        images_per_step=num_images,
        chance_loss=chance_loss,
    )
    network.train()
    with recording, closing(batches.steps(first_step, config.steps)) as incoming:
        for step in range(first_step, config.steps):
            with recording.waiting():
                batch = next(incoming)

            # Pixels travel as uint8 and become floats on the device; all images of all groups (of a part, where the
            # batch is learnt from in parts) in one forward.
            torch.manual_seed(_seed_of_step(config.seed, step, place.rank))  # for encoders with dropout
            draws = draw_augmentation(config.augment, count=num_images, seed=config.seed, step=step)
            step_loss = torch.zeros((), device=device)
            for part, part_rows in zip(batch.split(config.accumulate), rows, strict=True):
                pixels = to_device(part.images, device).flatten(0, 1)  # [b * K, H, W, 3]
                images = to_encoder_layout(to_images(pixels, draws.take(part_rows).to(device)))
                with averaging_gradients(parallel, when=part_rows is rows[-1]):
                    with in_precision(config.precision, device):
                        outputs = parallel(images)  # [b * K, …]
                    loss = objective.loss(outputs, objective.targets(part, device)) / config.accumulate
                    loss.backward()
                step_loss += loss.detach()

            learning_rate = learning_rate_at(config, step)
            set_learning_rate(optimizer, learning_rate)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if recording.after_step(step, step_loss, learning_rate=learning_rate):
                break
    return recording.summary()


def _seed_of_step(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def _pixel_transform(config: TrainConfig, options: RunOptions) -> Transform:
    if config.positives == "tz":
        return keep_pixels
    return partial(augment, operations=compile_operations()) if options.compile else augment


def _rows_of_parts(config: TrainConfig, objective: Objective, place: Place) -> list[Tensor]:
    """Which images of the global batch this process has in each part of its batch."""
    rows = own_rows(
        config.num_generated,
        config.num_real,
        num_images=objective.num_images,
        rank=place.rank,
        world_size=place.world_size,
        num_parts=config.accumulate,
    )
    return list(torch.from_numpy(rows).chunk(config.accumulate))
