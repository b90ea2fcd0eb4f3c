"""FFCV's file format, for those who read with FFCV: the groups of a dataset in one file, the same pixels.

FFCV's own JPEG mode compresses every image again, with a quarter of the colour. Here the JPEG files go into the file
as they are, and FFCV takes them for its own: a decoder that is as exact as ours gives our pixels (`contrast.readers`
has one), FFCV's SimpleRGBImageDecoder, which uses a coarser transform, gives pixels that are close.

    shards.to_ffcv("datasets/demo", out="datasets/demo/groups.beton")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from shards.atomic import flush_folder, naming, temporary_path
from shards.beton import (
    BETON_NAME,
    BetonRecord,
    digits_of_shards,
    field_names,
    fingerprint_of,
    parse_record,
    record_path,
    require_ffcv,
    write_record,
)
from shards.dataset import GroupDataset
from shards.errors import DamageError
from shards.manifest import DATA_FOLDER
from shards.progress import Progress
from shards.recipe import member_names

MODES = ("jpg", "raw")
_SMALLEST_PAGE_BYTES = 1 << 21
_LARGEST_PAGE_BYTES = 1 << 31


def to_ffcv(
    directory: str | Path, *, out: str | Path, n: int | str | None = None, mode: str | None = None, quiet: bool = False
) -> BetonRecord:
    """Writes the first n groups of a dataset, or all, as FFCV's file `out`, and OUT.json beside it.

    The file appears whole or not at all, its record before it: whoever is killed between the two leaves a record that
    refuses the file of before, and can do the same again.

    Args:
        mode: jpg stores the dataset's JPEG files as they are, raw stores pixels; jpg when None, raw for PNG datasets.
        quiet: shows no progress.

    Raises:
        ValueError: ffcv is not installed, the folder, n or the mode do not fit, or `out` would take the place of
            something else.
        DamageError: a shard is damaged.
    """
    require_ffcv()
    out = Path(out)
    dataset = GroupDataset(directory, n=n)
    image_format = dataset.manifest.recipe.image["format"]
    mode = mode or ("jpg" if image_format == "jpg" else "raw")
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: choose jpg or raw")
    if mode == "jpg" and image_format != "jpg":
        raise ValueError(f"{directory} holds {image_format} images, and jpg would lose something: use --mode raw")
    _check_out(out, Path(directory))
    temporary = temporary_path(out)
    try:
        with naming(out), Progress(total=len(dataset), unit="groups", label="converting", quiet=quiet) as progress:
            _write(dataset, temporary, mode, progress)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        record = BetonRecord(
            recipe_id=dataset.manifest.recipe.id,
            num_groups=len(dataset),
            num_images=dataset.num_images,
            image_size=dataset.image_size,
            mode=mode,
            bytes=temporary.stat().st_size,
            render=dataset.manifest.render.to_json(),
            shard_size=dataset.manifest.shard_size,
            shards=digits_of_shards(dataset.manifest, len(dataset)),
            fingerprint=fingerprint_of(temporary),
        )
        write_record(out, record)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(out.parent)
    return record


def _check_out(out: Path, directory: Path) -> None:
    """Raises ValueError where the file, or its record, would take the place of anything but such a pair."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name a file, such as {out / BETON_NAME}")
    if not out.parent.is_dir():
        raise ValueError(f"no folder {out.parent}: create it first")
    if out.parent.resolve().is_relative_to((directory / DATA_FOLDER).resolve()):
        raise ValueError(f"{out} is among the dataset's shards: choose another place, such as {directory / BETON_NAME}")
    record = record_path(out)
    if os.path.lexists(out) and not record.exists():
        raise ValueError(f"{out} is there, and no file of shards to-ffcv: choose another name, or remove it first")
    if record.exists():
        try:
            parse_record(record)
        except (ValueError, DamageError) as error:
            raise ValueError(
                f"{record} is no record of an FFCV file: choose another name, or remove it first"
            ) from error


def _write(dataset: GroupDataset, path: Path, mode: str, progress: Progress) -> None:
    from ffcv.fields import IntField, RGBImageField

    fields: dict[str, Any] = {}
    for name in field_names(dataset.num_images):
        fields[name] = RGBImageField(write_mode="raw")
        if mode == "jpg":
            # Of the instance: a class of its own would be a custom field, which a stranger's loader could not open.
            fields[name].encode = partial(_store_jpeg, dataset.image_size)
    fields["label"] = IntField()
    largest = dataset.num_images * dataset.image_size**2 * 3
    if mode == "jpg":
        largest = max(_group_sizes(dataset))
    page_bytes = max(_SMALLEST_PAGE_BYTES, 1 << (largest - 1).bit_length())
    if page_bytes > _LARGEST_PAGE_BYTES:
        raise ValueError(f"groups of {largest} bytes are larger than FFCV's pages can be")
    writer = _writer_class()(str(path), fields, page_size=page_bytes, num_workers=1)
    writer.progress = progress
    writer.from_indexed_dataset(_Samples(dataset, mode))


def _group_sizes(dataset: GroupDataset) -> Iterable[int]:
    """Bytes of the images of every group, from the offsets alone."""
    shard_size = dataset.manifest.shard_size
    for shard_index in range(-(-len(dataset) // shard_size)):
        sizes = dataset.offsets(shard_index)[:, 2 : 1 + 2 * dataset.num_images : 2]
        yield int(sizes.sum(axis=1).max())


class _Samples:
    """Groups as FFCV's writer asks for them: the images, then the label."""

    def __init__(self, dataset: GroupDataset, mode: str) -> None:
        self._dataset, self._mode = dataset, mode
        self._names = member_names(dataset.manifest.recipe)[: dataset.num_images]
        self._labels = dataset.labels

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        label = int(self._labels[index])
        if self._mode == "jpg":
            return (*(self._dataset.read(index, name) for name in self._names), label)
        return (*self._dataset.images(index), label)


def _store_jpeg(size: int, destination: Any, data: memoryview, malloc: Callable[[int], tuple[int, np.ndarray]]) -> None:
    """RGBImageField.encode for a file that is a JPEG already."""
    from ffcv.fields.rgb_image import IMAGE_MODES

    destination["mode"] = IMAGE_MODES["jpg"]
    destination["height"] = destination["width"] = size
    destination["data_ptr"], storage = malloc(len(data))
    storage[:] = np.frombuffer(data, np.uint8)


def _writer_class() -> type:
    """FFCV's DatasetWriter at work in this process.

    Its own workers are processes, and it waits for ever when one of them dies.
    """
    from ffcv.memory_allocator import MemoryAllocator
    from ffcv.writer import DatasetWriter, handle_sample

    class Writer(DatasetWriter):
        progress: Progress
        metadata_sm: Any

        def _write_common(
            self, num_samples: int, queue_content: Iterable[list], work_fn: Callable, extra_worker_args: tuple
        ) -> None:
            (dataset,) = extra_worker_args
            self.num_samples = num_samples
            self.prepare()
            self.metadata_sm.close()
            self.metadata_sm.unlink()
            memory = bytearray(num_samples * self.metadata_type.itemsize)  # shared memory is often small
            self.metadata_sm = SimpleNamespace(buf=memory)
            metadata = np.frombuffer(memory, dtype=self.metadata_type)
            allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
            with allocator:
                for chunk in queue_content:
                    for place, index in chunk:
                        sample = dataset[index]
                        handle_sample(sample, place, metadata.dtype.names, metadata, allocator, self.fields)
                    self.progress.advance(len(chunk))
            self.finalize([allocator.allocations])

    return Writer
