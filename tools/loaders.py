"""Ways to read the same groups into the same batches, for benchmarks to compare: ours and those of other people.

Each loader is opened once, for a task and a number of workers, and then read epoch by epoch. What runs in workers is
what suits the library: processes of our own for random access (as training does), threads for the bare codec and FFCV,
processes of torch's DataLoader for the others, kept from epoch to epoch.

    epoch = LOADERS["tar"](task, 2)
    for images in epoch():
        images                               # uint8 [B, K, H, W, 3]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from shards.codec import empty_pixels
from shards.converting import to_ffcv
from shards.dataset import GroupDataset
from shards.decoding import DecodingProcesses
from shards.manifest import group_key
from shards.markers import tar_path
from shards.recipe import member_names
from shards.stream import stream_groups

Epoch = Callable[[], Iterable[ndarray | Tensor]]


@dataclass(frozen=True, kw_only=True)
class LoadTask:
    """The first groups of a dataset of JPEG images, in whole shards, and where other formats of them lie."""

    directory: Path
    num_groups: int
    num_shards: int
    batch_size: int
    """Groups of a batch; the last one of an epoch may be smaller."""
    shape: tuple[int, int, int, int]
    """Of a group: images, height, width, 3."""
    image_names: tuple[str, ...]
    """Members of a group that are images, in order: anchor.jpg, view0.jpg, …"""
    loose: Path
    """Folder of `write_loose_files`."""
    scratch: Path
    """Folder of `write_betons`."""

    @classmethod
    def of(cls, directory: Path, *, num_groups: int, batch_size: int, scratch: Path) -> LoadTask:
        """The task for the shards that hold the first num_groups groups."""
        dataset = GroupDataset(directory)
        num_shards = -(-num_groups // dataset.manifest.shard_size)
        size = dataset.image_size
        return cls(
            directory=directory,
            num_groups=sum(shard.count for shard in dataset.manifest.shards[:num_shards]),
            num_shards=num_shards,
            batch_size=batch_size,
            shape=(dataset.num_images, size, size, 3),
            image_names=member_names(dataset.manifest.recipe)[: dataset.num_images],
            loose=scratch / "loose",
            scratch=scratch,
        )

    def beton(self, kind: str) -> Path:
        """FFCV's file of a kind: jpg, raw or recompressed."""
        return self.scratch / f"{kind}.beton"

    @property
    def tars(self) -> list[Path]:
        """The shards."""
        return [tar_path(self.directory, index) for index in range(self.num_shards)]

    def open(self) -> GroupDataset:
        """A reader with maps of its own."""
        return GroupDataset(self.directory, n=self.num_groups)

    def blocks(self) -> list[range]:
        """The groups of every batch, in index order."""
        return [
            range(first, min(first + self.batch_size, self.num_groups))
            for first in range(0, self.num_groups, self.batch_size)
        ]


# ---------------------------------------------------------------------------------------------------------------------
# Ours


def open_tar(task: LoadTask, num_workers: int, *, warm_up: bool = True) -> Epoch:
    """`GroupDataset.batch` in processes, as training reads.

    Opened anew for every epoch, because pages of a mapped file cannot be put out of memory; other people's loaders keep
    their workers, so before an epoch's time begins the processes are started, and with `warm_up` read all once.
    """

    def epoch() -> Iterator[ndarray]:
        dataset = task.open()
        if num_workers == 0:
            return (dataset.batch(block)[0] for block in task.blocks())
        decoding = DecodingProcesses(dataset, count=num_workers, most_groups=task.batch_size)
        decoding.start()
        if warm_up:
            deque(read(decoding), maxlen=0)
        return close_after(decoding)

    def read(decoding: DecodingProcesses) -> Iterator[ndarray]:
        return map_in_threads(lambda block: decoding.batch(block)[0], task.blocks(), num_workers)

    def close_after(decoding: DecodingProcesses) -> Iterator[ndarray]:
        with decoding:
            yield from read(decoding)

    return epoch


def open_stream(task: LoadTask, num_workers: int) -> Epoch:
    """`stream_groups` in processes, without a shuffle buffer."""
    return partial(iter, _loader(_StreamedBatches(task), num_workers))


class _StreamedBatches(IterableDataset):
    """A worker's share of the stream."""

    def __init__(self, task: LoadTask) -> None:
        self.task = task

    def __iter__(self) -> Iterator[ndarray]:
        worker = get_worker_info()
        place = {"worker": worker.id, "num_workers": worker.num_workers} if worker else {}
        groups = stream_groups(self.task.directory, n=self.task.num_groups, shuffle_buffer=1, **place)
        while block := [group.images for group in islice(groups, self.task.batch_size)]:
            yield np.stack(block)


def open_decode(task: LoadTask, num_workers: int, *, on_grid: bool = False) -> Epoch:
    """The codec alone, over files that are in memory already: the limit of whatever stores JPEG.

    Args:
        on_grid: rows lie at multiples of 32 bytes, as in memory that was asked for by the page.
    """
    dataset = task.open()
    files = [bytes(dataset.read(index, name)) for index in range(task.num_groups) for name in task.image_names]

    def decode(block: range) -> ndarray:
        images = empty_pixels((len(block), *task.shape))
        if on_grid:
            memory = np.empty(images.size + 32, np.uint8)
            images = memory[-memory.ctypes.data % 32 :][: images.size].reshape(images.shape)
        places = list(images.reshape(-1, *task.shape[1:]))
        for data, place in zip(files[block.start * task.shape[0] : block.stop * task.shape[0]], places, strict=True):
            simplejpeg.decode_jpeg(data, "RGB", False, False, 0, 0, 1.0, place)
        return images

    return lambda: map_in_threads(decode, task.blocks(), num_workers)


def map_in_threads(work: Callable[[range], ndarray], blocks: Sequence[range], num_workers: int) -> Iterator[ndarray]:
    """Results in order, worked out ahead in threads; in the caller's own where there are no workers."""
    if num_workers == 0:
        yield from map(work, blocks)
        return
    pending: deque[Future[ndarray]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        for block in blocks:
            pending.append(pool.submit(work, block))
            if len(pending) > 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# ---------------------------------------------------------------------------------------------------------------------
# Other people's


def open_webdataset(task: LoadTask, num_workers: int, *, decoder: Any = "rgb8") -> Epoch:
    """webdataset as its authors document it: decode, to_tuple, map, batched, a WebLoader; its shuffles left out."""
    import webdataset

    dataset = webdataset.WebDataset([str(path) for path in task.tars], shardshuffle=False)
    dataset = dataset.decode(decoder).to_tuple(*task.image_names, "json").map(_stack_sample).batched(task.batch_size)
    return partial(_first_of_each, _loader(dataset, num_workers, loader=webdataset.WebLoader))


def open_webdataset_simplejpeg(task: LoadTask, num_workers: int) -> Epoch:
    """The same with the fastest decoder that can be put in, ours."""
    import webdataset

    handler = webdataset.handle_extension("jpg", partial(simplejpeg.decode_jpeg, colorspace="RGB"))
    return open_webdataset(task, num_workers, decoder=handler)


def _stack_sample(sample: tuple[Any, ...]) -> tuple[ndarray, int]:
    *images, metadata = sample
    return np.stack(images), metadata["label"]


def _first_of_each(batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    return (images for images, _ in batches)


def write_loose_files(task: LoadTask) -> int:
    """The same JPEG files, loose, in a folder per class, as ImageFolder wants them; how many."""
    dataset = task.open()
    for index, label in enumerate(dataset.labels.tolist()):
        folder = task.loose / f"class{max(label, 0):04d}"
        folder.mkdir(parents=True, exist_ok=True)
        for position, name in enumerate(task.image_names):
            (folder / f"{group_key(index)}-{position:02d}.jpg").write_bytes(dataset.read(index, name))
    return task.num_groups * len(task.image_names)


def open_imagefolder(task: LoadTask, num_workers: int) -> Epoch:
    """torchvision's ImageFolder, which opens files with PIL, over `write_loose_files`."""
    from torchvision.datasets import ImageFolder

    images = ImageFolder(str(task.loose), transform=np.asarray)
    options = {"batch_size": task.batch_size * task.shape[0], "collate_fn": partial(_join_groups, task.shape)}
    return partial(iter, _loader(images, num_workers, **options))


def _join_groups(shape: tuple[int, ...], samples: list[tuple[ndarray, int]]) -> Tensor:
    return torch.from_numpy(np.stack([image for image, _ in samples]).reshape(-1, *shape))


def has_ffcv() -> bool:
    """Whether FFCV is installed."""
    return find_spec("ffcv") is not None


def write_betons(task: LoadTask, *, quality: int) -> None:
    """The groups as FFCV's files: our JPEG files as they are, pixels, and compressed again by FFCV's own jpg mode.

    That mode stores a quarter of the colour (420) at any size, which is less to decode.
    """
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    for mode in ("jpg", "raw"):
        to_ffcv(task.directory, out=task.beton(mode), n=task.num_groups, mode=mode, quiet=True)
    images = {f"image{k}": RGBImageField(write_mode="jpg", jpeg_quality=quality) for k in range(task.shape[0])}
    writer = DatasetWriter(str(task.beton("recompressed")), {**images, "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(_GroupTuples(task))


class _GroupTuples:
    """Groups as FFCV's writer asks for them."""

    def __init__(self, task: LoadTask) -> None:
        self._dataset = task.open()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        images, labels = self._dataset.batch([index])
        return (*images[0], int(labels[0]))


def open_ffcv(task: LoadTask, num_workers: int, *, kind: str) -> Epoch:
    """FFCV's loader and decoder over `write_betons`, from the operating system's cache; it has one thread at least."""
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    images = {f"image{k}": [SimpleRGBImageDecoder()] for k in range(task.shape[0])}
    loader = Loader(
        str(task.beton(kind)),
        batch_size=task.batch_size,
        num_workers=max(1, num_workers),
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines={**images, "label": [IntDecoder()]},
    )
    return lambda: (np.stack(fields[:-1], axis=1) for fields in loader)


def _loader(dataset: Any, num_workers: int, *, loader: Any = DataLoader, **options: Any) -> Any:
    settings = {"batch_size": None, "num_workers": num_workers, "persistent_workers": num_workers > 0}
    return loader(dataset, **{**settings, **options})


LOADERS: dict[str, Callable[[LoadTask, int], Epoch]] = {
    "tar": open_tar,
    "stream": open_stream,
    "webdataset": open_webdataset,
    "webdataset_simplejpeg": open_webdataset_simplejpeg,
    "imagefolder": open_imagefolder,
    "ffcv_jpg": partial(open_ffcv, kind="jpg"),
    "ffcv_recompressed": partial(open_ffcv, kind="recompressed"),
    "ffcv_raw": partial(open_ffcv, kind="raw"),
    "decode": open_decode,
    "decode_on_grid": partial(open_decode, on_grid=True),
}
COLD_LOADERS: dict[str, Callable[[LoadTask, int], Epoch]] = {**LOADERS, "tar": partial(open_tar, warm_up=False)}
