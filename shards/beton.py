"""FFCV's file format, for those who read with FFCV: the groups of a dataset in one file, the same pixels.

FFCV's own JPEG mode compresses every image again, with a quarter of the colour. Here the JPEG files go into the file
as they are, and FFCV takes them for its own: a decoder that is as exact as ours gives our pixels (`contrast.readers`
has one), FFCV's SimpleRGBImageDecoder, which uses a coarser transform, gives pixels that are close.

    shards.to_ffcv("datasets/demo", out="datasets/demo/groups.beton")
    read_beton_record("datasets/demo/groups.beton").recipe_id

FFCV is an extra: nothing here imports it before it is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from shards.atomic import flush_folder, naming, temporary_path, write_atomically
from shards.canonical import JSON, canonical_json, parse_json, shorten
from shards.dataset import GroupDataset
from shards.errors import DamageError
from shards.manifest import DATA_FOLDER, FORMAT, Manifest
from shards.progress import Progress
from shards.recipe import member_names

BETON_NAME = "groups.beton"
"""The file's name in a dataset's folder, unless another place is given."""
MODES = ("jpg", "raw")
_SHARD_DIGITS = 16
_BLOCK_BYTES = 1 << 20
_NUM_BLOCKS = 16
_SMALLEST_PAGE_BYTES = 1 << 21
_LARGEST_PAGE_BYTES = 1 << 31


@dataclass(frozen=True, kw_only=True)
class BetonRecord:
    """What lies beside an FFCV file, as FILE.json: of which groups it is. FFCV itself keeps 16 bytes of a name."""

    recipe_id: str
    num_groups: int
    """The file holds groups 0 … num_groups - 1, in this order."""
    num_images: int
    """Fields image0, image1, … of a sample: the anchor, then the views; label is the class id, -1 without classes."""
    image_size: int
    mode: str
    """jpg: the dataset's own JPEG files; raw: pixels."""
    bytes: int
    """Size of the FFCV file."""
    # A recipe says nothing of number format, batch and device, which decide the last bits: what follows tells renders
    # of one recipe apart. Records of earlier versions are without it, and are believed.
    render: Mapping[str, JSON] | None = None
    """The render settings, as in the manifest."""
    shard_size: int | None = None
    shards: str | None = None
    """The first 16 digits of the sha256 of every shard that is whole in the dataset and in this file, one after the
    other: growing the dataset changes none of them."""
    fingerprint: str | None = None
    """See fingerprint_of; files of other datasets are often of one size. Records of earlier versions are without it."""

    def __post_init__(self) -> None:
        of_text = ("shards", str | None), ("fingerprint", str | None)
        for name, kind in (("recipe_id", str), ("num_groups", int), ("bytes", int), *of_text):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {shorten(getattr(self, name))}")

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return asdict(self)


def field_names(num_images: int) -> tuple[str, ...]:
    """The images' fields of a sample, in order."""
    return tuple(f"image{position}" for position in range(num_images))


def record_path(beton: str | Path) -> Path:
    """Where the record of an FFCV file lies."""
    return Path(f"{beton}.json")


def fingerprint_of(path: Path) -> str:
    """sha256 (hex) of up to 16 MiB of a file: its begin, its end, and what lies at equal distances between them.

    Quick at any size. The begin alone would not do: pixels lie behind tables that many datasets have in common.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        last = max(0, os.fstat(file.fileno()).st_size - _BLOCK_BYTES)
        for start in sorted({last * number // (_NUM_BLOCKS - 1) for number in range(_NUM_BLOCKS)}):
            file.seek(start)
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def require_ffcv() -> ModuleType:
    """The package ffcv.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    if find_spec("ffcv") is None:
        raise ValueError(
            "ffcv is not installed: run make setup-ffcv, or install pkg-config, libturbojpeg0-dev and libopencv-dev "
            "and then pip install -e '.[ffcv]' in the clone"
        )
    import ffcv

    return ffcv


def read_beton_record(beton: str | Path) -> BetonRecord:
    """The record of an FFCV file that `to_ffcv` wrote.

    Raises:
        ValueError: there is no such file, or no record beside it.
        DamageError: the record is not as it was written, or the file has another size or fingerprint.
    """
    path = record_path(beton)
    if not Path(beton).is_file():
        raise ValueError(
            f"no file {beton}: write it with shards to-ffcv DIR --out {shlex.quote(str(beton))}, or "
            "give another --beton"
        )
    try:
        record = _parse_record(path)
    except FileNotFoundError:
        raise ValueError(
            f"no {path}, which says of which dataset {beton} is: write both again with shards to-ffcv"
        ) from None
    size = Path(beton).stat().st_size
    if size != record.bytes:
        raise DamageError(f"{beton} has {size} bytes, not {record.bytes}; run shards to-ffcv again")
    if record.fingerprint is not None and record.fingerprint != fingerprint_of(Path(beton)):
        raise DamageError(f"{beton} was altered, or is not the file that {path} is of; run shards to-ffcv again")
    return record


def _parse_record(path: Path) -> BetonRecord:
    try:
        data = parse_json(path.read_bytes())
        if data.pop("format") != FORMAT:
            raise ValueError(f"{path} is of another version's format: write the file again with shards to-ffcv")
        return BetonRecord(**data)
    except (DamageError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{path} was altered ({type(error).__name__}: {error}); run shards to-ffcv again") from error


def check_beton(beton: str | Path, manifest: Manifest, *, num_groups: int) -> BetonRecord:
    """The record of an FFCV file that holds the first num_groups groups of a manifest's dataset.

    Raises:
        ValueError: it is of another dataset, or of another render of the recipe, or holds fewer groups.
        DamageError: see read_beton_record.
    """
    record = read_beton_record(beton)
    if record.recipe_id != manifest.recipe.id:
        raise ValueError(
            f"{beton} is of another dataset: recipe id {record.recipe_id[:12]}… in the file, "
            f"{manifest.recipe.id[:12]}… asked for; write it again with shards to-ffcv"
        )
    difference = _render_difference(record, manifest)
    if difference is not None:
        raise ValueError(
            f"{beton} is of another render of the same recipe ({difference}): write it again with shards to-ffcv"
        )
    if record.num_groups < num_groups:
        raise ValueError(
            f"{beton} holds {record.num_groups} groups of the {num_groups} asked for: write it again with "
            f"shards to-ffcv, or give --n {record.num_groups}"
        )
    return record


def _render_difference(record: BetonRecord, manifest: Manifest) -> str | None:
    """What tells the file's images from those of a dataset of its recipe; None where nothing that both have does."""
    if record.render is not None and record.render != manifest.render.to_json():
        return f"{canonical_json(record.render)} in the file, {canonical_json(manifest.render.to_json())} asked for"
    if record.shards is None or record.shard_size != manifest.shard_size:
        return None
    there = _digits_of_shards(manifest, manifest.num_groups)
    for start in range(0, min(len(record.shards), len(there)), _SHARD_DIGITS):
        if record.shards[start : start + _SHARD_DIGITS] != there[start : start + _SHARD_DIGITS]:
            return f"shard {start // _SHARD_DIGITS} had other bytes when the file was written"
    return None


def _digits_of_shards(manifest: Manifest, num_groups: int) -> str:
    """BetonRecord.shards of the first num_groups groups; the last shard is left out where it is short and may grow."""
    whole = manifest.shards[: num_groups // manifest.shard_size]
    return "".join(shard.sha256[:_SHARD_DIGITS] for shard in whole)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def to_ffcv(
    directory: str | Path, *, out: str | Path, n: int | None = None, mode: str | None = None, quiet: bool = False
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
            shards=_digits_of_shards(dataset.manifest, len(dataset)),
            fingerprint=fingerprint_of(temporary),
        )
        text = json.dumps({"format": FORMAT, **record.to_json()}, indent=1) + "\n"
        write_atomically(record_path(out), text.encode())
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
            _parse_record(record)
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
