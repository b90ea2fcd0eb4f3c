"""From plans to published shards on one device, every stage at work at once.

    draw -> generate -> encode -> write -> publish

Blocks travel through pools of threads: forward passes (one thread per core on a CPU, one on a GPU), encoding, and a
single writer that takes blocks in order. The codec, the disk and torch's operators release the interpreter's lock, so
the stages overlap. A full shard goes to threads that flush and publish it, since a disk may take longer over that than
a GPU over the next shard. A GPU is waited for by the encoding threads only: pixels are copied into pinned buffers
behind the kernels that make them, and an event says when they are there.

    ShardRenderer(directory=folder, recipe=recipe, ...).run(plan_shards(num_groups=4000, shard_size=1000))
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch

from shards.codec import encode_image
from shards.recipe import Recipe, RenderSettings
from shards.tar import format_array
from shards.writer import ShardWriter
from synthgen.adapters.compiling import compile_passes
from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.protocol import Generator
from synthgen.arithmetic import reproducible_arithmetic, set_forward_threads
from synthgen.devices import (
    count_encode_threads,
    count_failed_allocations,
    count_forward_threads,
    describe_environment,
    explain_out_of_memory,
    no_memory,
    on_device,
)
from synthgen.plan import BlockPlan, Draws, ShardPlan, draw_groups, plan_blocks
from synthgen.vectors import VectorFiles

STAGES = ("draw", "generate", "encode", "write")  # of a shard; its marker is published with what they took
_PUBLISH = "publish"
_PUBLISHING_THREADS = 2
_MOST_BUFFER_BYTES = 2_000_000_000


@dataclass
class _Shard:
    """A shard on its way: what its blocks share."""

    plan: ShardPlan
    started: float | None = None
    num_written: int = 0
    writer: ShardWriter | None = None  # from the first block on
    busy_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


class _Rendered(NamedTuple):
    """A block whose pixels are, or soon will be, in `buffer`."""

    draws: Draws
    buffer: torch.Tensor  # uint8 [K, B, H, W, 3] on the host
    finite: torch.Tensor  # bool [K] on the host: whether pass k gave numbers, and not NaN or infinity
    events: tuple[torch.cuda.Event, torch.cuda.Event] | None  # around the forward passes; None on a CPU


class ShardRenderer:
    """Renders shards of one recipe with one generator on one device.

    Args:
        directory: the dataset's folder, locked by the caller.
        generator: at the recipe's truncation, on `device`, in the dtype of `render`; where `render` says so its passes
            are compiled here. Its `render` is not called but its `sample`, whose images are looked at before they are
            pixels.
        vectors: files with the walks or directions that the recipe's view policies name.

    Raises:
        ValueError: the device has no room for the buffers, or the passes cannot be compiled.
    """

    def __init__(
        self,
        *,
        directory: Path,
        recipe: Recipe,
        render: RenderSettings,
        generator: Generator,
        device: torch.device,
        vectors: VectorFiles | None = None,
    ) -> None:
        self._directory, self._recipe, self._render = directory, recipe, render
        self._vectors = vectors
        self._generator, self._device = generator, device
        self._size = int(recipe.image["size"])
        self._class_names = {label: generator.class_names[label] for label in recipe.classes}
        self._environment = describe_environment(device, compiled=render.compiled)
        forward, encode = count_forward_threads(device), count_encode_threads(device)
        self._threads = {"draw": forward, "generate": forward, "encode": encode, "write": 1}
        self._threads[_PUBLISH] = _PUBLISHING_THREADS
        shape = (1 + recipe.num_views, render.batch_size, self._size, self._size, 3)
        affordable = _MOST_BUFFER_BYTES // int(np.prod(shape))
        self._depth = max(3, min(forward + encode + 1, affordable))
        with explain_out_of_memory(device, batch_size=render.batch_size), on_device(device):
            self._buffers = deque(
                torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=device.type == "cuda")
                for _ in range(self._depth)
            )
        if render.compiled:
            self._generator = compile_passes(generator, batch_size=render.batch_size, device=device)
        self._open: list[ShardWriter] = []  # their shards have a first block and are not being published yet
        self._failed_allocations = count_failed_allocations(device)
        self._failed = False  # once a block is lost nothing more is written: blocks after it may be done already
        self._lock = Lock()
        self._busy_seconds = dict.fromkeys((*STAGES, _PUBLISH), 0.0)

    def run(self, shards: Iterable[ShardPlan], *, on_groups: Callable[[int], None] = lambda count: None) -> None:
        """Renders and publishes the shards in the given order; on_groups is told of every few groups written.

        Raises:
            ValueError: the device ran out of memory, or the generator gave NaN or infinity.
            OSError: the disk is full or not writable. Shards published before stay; of the others nothing remains.
        """
        in_flight: deque[Future[int]] = deque()
        with ExitStack() as stack:
            stack.push(self._abandon)
            stack.enter_context(reproducible_arithmetic(self._device))
            forward = ThreadPoolExecutor(self._threads["generate"], "forward", set_forward_threads)
            encode = ThreadPoolExecutor(self._threads["encode"], "encode")
            write = ThreadPoolExecutor(self._threads["write"], "write")
            publish = ThreadPoolExecutor(self._threads[_PUBLISH], _PUBLISH)
            for pool in (publish, write, encode, forward):  # shut down in the order of the stages
                stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            for plan in shards:
                shard = _Shard(plan)
                for block in plan_blocks(plan, batch_size=self._render.batch_size):
                    while len(in_flight) >= self._depth:
                        on_groups(in_flight.popleft().result())
                    rendered = forward.submit(self._forward, shard, block)
                    encoded = encode.submit(self._encode, shard, block, rendered)
                    written = write.submit(self._write, shard, block, encoded)
                    is_last = block.first + block.kept.stop == plan.first + plan.count
                    in_flight.append(publish.submit(self._publish, shard, written) if is_last else written)
            while in_flight:
                on_groups(in_flight.popleft().result())

    def busy_shares(self, seconds: float) -> dict[str, float]:
        """Busy share of each stage's threads since the renderer was made, `seconds` ago; 1 is the limit."""
        with self._lock:
            return {stage: busy / self._threads[stage] / seconds for stage, busy in self._busy_seconds.items()}

    # -----------------------------------------------------------------------------------------------------------------
    # Stages, each in threads of its own

    def _forward(self, shard: _Shard, block: BlockPlan) -> _Rendered:
        began = time.perf_counter()
        shard.started = shard.started or began
        draws = draw_groups(
            self._recipe,
            latent_dim=self._generator.latent_dim,
            first=block.first,
            count=block.size,
            vectors=self._vectors,
        )
        drawn = time.perf_counter()
        self._add_busy(shard, "draw", drawn - began)
        buffer = self._buffers.popleft()  # there is one for every block in flight
        with explain_out_of_memory(self._device, batch_size=self._render.batch_size):
            finite, events = self._generate(draws, buffer)
        if events is None:
            self._add_busy(shard, "generate", time.perf_counter() - drawn)
        return _Rendered(draws, buffer, finite, events)

    @torch.inference_mode()
    def _generate(
        self, draws: Draws, buffer: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.cuda.Event, torch.cuda.Event] | None]:
        on_gpu = self._device.type == "cuda"
        latents, labels = draws.inputs()
        with on_device(self._device):  # pinning too: elsewhere it would open a context on the first GPU
            finite = torch.empty(len(buffer), dtype=torch.bool, pin_memory=on_gpu)
            events = None
            if on_gpu:
                latents, labels = latents.pin_memory(), labels.pin_memory()  # so that the copy waits for nobody
                events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True, blocking=True))
                events[0].record()
            latents = latents.to(self._device, non_blocking=True)
            labels = labels.to(self._device, non_blocking=True)
            for member in range(len(latents)):
                images = self._generator.sample(latents[member], labels)
                lowest, highest = images.aminmax()  # one reading; either is NaN where there is one
                finite[member].copy_(lowest.isfinite() & highest.isfinite(), non_blocking=True)
                buffer[member].copy_(to_pixels(images, size=self._size), non_blocking=True)
            if events is not None:
                events[1].record()
        return finite, events

    def _encode(
        self, shard: _Shard, block: BlockPlan, rendered: Future[_Rendered]
    ) -> tuple[Draws, list[list[bytes]], list[bytes | None]]:
        draws, buffer, finite, events = rendered.result()
        if events is not None:
            with on_device(self._device):
                events[1].synchronize()  # sleeps without the interpreter's lock
                self._add_busy(shard, "generate", events[0].elapsed_time(events[1]) / 1000)
        if not finite.all():
            raise ValueError(
                f"{self._generator.name} gave NaN or infinity in the images of groups {block.first} to "
                f"{block.first + block.size - 1}: check its weights, or give --dtype float32"
            )
        began = time.perf_counter()
        pixels = buffer.numpy()
        kept = range(block.kept.start, block.kept.stop)
        images = [[encode_image(member[group], self._recipe.image) for member in pixels] for group in kept]
        latents: list[bytes | None] = [None] * len(kept)
        if self._recipe.store_latents:
            latents = [format_array(draws.latents[:, group]) for group in kept]
        self._buffers.append(buffer)
        self._add_busy(shard, "encode", time.perf_counter() - began)
        return draws, images, latents

    def _write(
        self, shard: _Shard, block: BlockPlan, encoded: Future[tuple[Draws, list[list[bytes]], list[bytes | None]]]
    ) -> int:
        if self._failed:
            raise CancelledError
        try:
            return self._write_block(shard, block, *encoded.result())
        except BaseException:
            self._failed = True
            raise

    def _write_block(
        self, shard: _Shard, block: BlockPlan, draws: Draws, images: list[list[bytes]], latents: list[bytes | None]
    ) -> int:
        began = time.perf_counter()
        plan = shard.plan
        assert plan.first + shard.num_written == block.first + block.kept.start, "an earlier block failed"
        if shard.writer is None:
            shard.writer = ShardWriter(
                self._directory,
                recipe=self._recipe,
                render=self._render,
                shard_index=plan.index,
                first=plan.first,
                count=plan.count,
                class_names=self._class_names,
            )
            self._open.append(shard.writer)
        for position, group in enumerate(range(block.kept.start, block.kept.stop)):
            shard.writer.add(
                label=int(draws.labels[group]),
                images=images[position],
                views=[parameters[group] for parameters in draws.parameters],
                latents=latents[position],
            )
            shard.num_written += 1
        self._add_busy(shard, "write", time.perf_counter() - began)
        return len(images)

    def _publish(self, shard: _Shard, last_written: Future[int]) -> int:
        """Makes the shard appear once its last block is written, and returns that block's groups."""
        count = last_written.result()
        assert shard.writer is not None and shard.started is not None and shard.num_written == shard.plan.count
        began = time.perf_counter()
        if count_failed_allocations(self._device) != self._failed_allocations:
            self._failed = True  # it went on, with kernels of other last bits
            raise no_memory(self._device, torch.OutOfMemoryError(), self._render.batch_size)
        with self._lock:
            stages = {stage: round(busy, 4) for stage, busy in shard.busy_seconds.items()}
        try:
            self._open.remove(shard.writer)
            with shard.writer as writer:
                writer.publish(environment=self._environment, seconds=round(began - shard.started, 4), stages=stages)
        except BaseException:
            self._failed = True
            raise
        with self._lock:
            self._busy_seconds[_PUBLISH] += time.perf_counter() - began
        return count

    def _add_busy(self, shard: _Shard, stage: str, seconds: float) -> None:
        with self._lock:
            shard.busy_seconds[stage] += seconds
            self._busy_seconds[stage] += seconds

    def _abandon(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._open:
            writer.__exit__(kind, error, trace)  # removes the temporary file


def slowest_stage(shares: Mapping[str, float]) -> str:
    """The stage that the others wait for, as the progress line shows it: "generate 97%"."""
    stage = max(shares, key=lambda name: shares[name])
    return f"{stage} {min(shares[stage], 1.0):.0%}"
