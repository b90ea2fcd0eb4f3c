"""Batches through FFCV: its loader, its threads, its memory map; our order, and our pixels bit for bit.

    batches = BetonBatches(dataset, order, beton="datasets/demo/groups.beton", num_workers=2)
    for batch in batches.steps(first, last):
        batch.images                      # uint8 [256, K, H, W, 3]

FFCV's own decoder asks libjpeg-turbo for its coarse transform, which is off by up to 16 of 255; the one here asks for
the exact one. FFCV is an extra: importing this module does not import it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from contrast.batches import GroupBatch
from contrast.orders import GroupOrder
from shards.beton import BETON_NAME, check_beton, field_names, require_ffcv
from shards.dataset import GroupDataset
from shards.errors import DamageError
from shards.fetching import is_address

_RGB = 0  # TJPF_RGB of turbojpeg.h


class BetonBatches:
    """The batches of a run, by step number: those of `GroupBatches` in the same order.

    Args:
        dataset: says which groups; its tars are not read.
        beton: the file of `shards to-ffcv`; groups.beton in the dataset's folder when None.
        num_workers: decoding threads; no more than the machine has cores.

    Raises:
        ValueError: FFCV is not installed, the file is of another dataset or of fewer groups.
        DamageError: the file is not as it was written.
    """

    def __init__(
        self,
        dataset: GroupDataset,
        order: GroupOrder,
        *,
        beton: str | Path | None,
        num_workers: int,
    ) -> None:
        require_ffcv()
        if beton is None:
            if is_address(dataset.location):
                raise ValueError(f"{dataset.location} is no folder: give FFCV's file with --beton")
            beton = Path(dataset.location) / BETON_NAME
        check_beton(beton, dataset.manifest, num_groups=len(dataset))
        self.steps_per_epoch = order.steps_per_epoch
        self.order = order
        self._num_images = dataset.num_images
        self._beton = beton
        self._failed = np.array([0, 1], np.uint8)  # the first becomes 1 when an image does not decode
        self._num_workers = num_workers

    @cached_property
    def _loader(self) -> Any:
        """FFCV's loader; opening it compiles code, which takes a second or two."""
        return _open_loader(
            self._beton,
            self._failed,
            batch_size=self.order.share,
            num_images=self._num_images,
            num_workers=self._num_workers,
        )

    def steps(self, first: int, last: int) -> Generator[GroupBatch, None, None]:
        """Batches of the steps first … last - 1, in order, loaded ahead by FFCV's threads."""
        step = first
        while step < last:
            end = min(last, step - step % self.steps_per_epoch + self.steps_per_epoch)  # of this epoch
            parts = [self.order.groups(s) for s in range(step, end)]
            with closing(_iterate(self._loader, np.concatenate(parts))) as incoming:
                for indices, fields in zip(parts, incoming, strict=True):
                    if self._failed[0]:
                        raise DamageError(
                            f"{self._beton} holds an image that does not decode; run shards to-ffcv again"
                        )
                    *images, labels = fields
                    # Copies: FFCV writes later batches into the same memory.
                    yield GroupBatch(
                        step=step,
                        indices=indices,
                        labels=np.array(labels[:, 0], np.int64),
                        images=np.stack(images, axis=1),
                    )
                    step += 1


def _open_loader(beton: str | Path, failed: ndarray, *, batch_size: int, num_images: int, num_workers: int) -> Any:
    import numba
    from ffcv.fields.decoders import IntDecoder
    from ffcv.loader import Loader, OrderOption

    decoder = _exact_decoder(failed)
    threads = torch.get_num_threads()
    try:
        return Loader(
            str(beton),
            batch_size=batch_size,
            num_workers=min(
                num_workers,
                numba.config.NUMBA_NUM_THREADS,  # type: ignore[attr-defined]
            ),
            os_cache=True,  # a memory map, which any order of samples suits
            order=OrderOption.SEQUENTIAL,
            drop_last=True,
            pipelines={**{name: [decoder()] for name in field_names(num_images)}, "label": [IntDecoder()]},
        )
    finally:
        torch.set_num_threads(threads)  # FFCV sets torch's, too, and they are part of a run's bits


def _iterate(loader: Any, indices: ndarray) -> Generator[Any, None, None]:
    """The samples of these indices in this order, batch by batch."""
    loader.traversal_order.indices = indices.astype(np.uint64)
    loader.first_traversal_order = loader.next_traversal_order()  # the loader's length comes from here
    threads = torch.get_num_threads()
    try:
        incoming = iter(loader)
    finally:
        torch.set_num_threads(threads)
    try:
        for _ in range(len(indices) // loader.batch_size):
            _wait_for_batch(incoming)
            yield next(incoming)
    finally:
        incoming.close()
        while incoming.is_alive():  # it may wait for ever for room for its last word
            with suppress(Empty):
                incoming.output_queue.get(timeout=0.05)


def _wait_for_batch(incoming: Any) -> None:
    """Returns when FFCV's thread has a batch; FFCV itself would wait for a thread that died, for ever."""
    queue = incoming.output_queue
    while queue.empty():
        with queue.not_empty:
            if not queue.queue:
                queue.not_empty.wait(timeout=0.5)
        if queue.empty() and not incoming.is_alive():
            raise RuntimeError("FFCV's loader ended before its last batch; its own error stands above")


def _exact_decoder(failed: ndarray) -> Callable[[], Any]:
    """FFCV's SimpleRGBImageDecoder with libjpeg-turbo's exact transform, the one that shards.codec uses.

    Compiled code cannot raise, and FFCV's decoder goes on with whatever the memory held: this one copies failed[1] to
    failed[0].
    """
    import ffcv._libffcv
    from ffcv.fields.decoders import SimpleRGBImageDecoder
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.libffcv import memcpy
    from ffcv.pipeline.compiler import Compiler

    library = ctypes.CDLL(ffcv._libffcv.__file__)  # it is linked to libjpeg-turbo, whose functions it shows
    open_decoder, decode_file, close_decoder = library.tjInitDecompress, library.tjDecompress2, library.tjDestroy
    open_decoder.argtypes, open_decoder.restype = [], ctypes.c_void_p
    decode_file.argtypes = [
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p),
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ]
    close_decoder.argtypes = [ctypes.c_void_p]
    report, flag = library.my_memcpy, failed.ctypes.data
    report.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64]
    jpg = IMAGE_MODES["jpg"]

    class ExactDecoder(SimpleRGBImageDecoder):
        def generate_code(self) -> Callable:
            read, copy, each = self.memory_read, Compiler.compile(memcpy), Compiler.get_iterator()

            def decode(batch_indices, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
                for place in each(len(batch_indices)):
                    field = metadata[batch_indices[place]]
                    data = read(field["data_ptr"], storage_state)
                    pixels = destination[place]
                    if field["mode"] == jpg:
                        handle = open_decoder()
                        status = decode_file(
                            handle,
                            data.ctypes.data,
                            data.size,
                            pixels.ctypes.data,
                            pixels.shape[1],
                            0,
                            pixels.shape[0],
                            _RGB,
                            0,
                        )
                        close_decoder(handle)
                        if status != 0:
                            report(flag + 1, flag, 1)
                    else:
                        copy(data, pixels)
                return destination[: len(batch_indices)]

            decode.is_parallel = True  # type: ignore[attr-defined]
            return decode

    return ExactDecoder
