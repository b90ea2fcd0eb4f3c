"""Random access to the groups of a finished dataset, straight from its tars.

    dataset = GroupDataset("datasets/demo", n=1000)
    images, labels = dataset.batch([5, 3, 999])      # uint8 [3, K, H, W, 3], int64 [3]

The tars are mapped into memory when first touched; nothing is extracted. A dataset may be read from several threads at
once, and copied into worker processes by fork or pickle; one in a bucket, by pickle alone.
"""

from __future__ import annotations

import operator
import shlex
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from shards.canonical import JSON, parse_json
from shards.codec import decode_all_into, decode_into, empty_pixels
from shards.errors import DamageError
from shards.manifest import Manifest, group_key, load_manifest
from shards.mapping import MappedShard, allow_open_files, map_file, narrow_index
from shards.markers import index_path, tar_path
from shards.numbers import check_whole
from shards.recipe import member_names
from shards.tar import load_index, parse_array

_SPREAD_BYTES = 4 * 10**9
"""Beyond this, groups in random order lie so far apart that reading ahead of them is wasted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """One anchor and its views, decoded."""

    index: int
    label: int
    """Class id; -1 without classes."""
    class_name: str
    images: np.ndarray
    """uint8 [K, height, width, 3]: the anchor, then the views."""
    views: Sequence[Mapping[str, JSON]]
    """Policy and parameters of every view."""


class GroupDataset:
    """The first n groups of a dataset, by index.

    Construction reads the manifest only; shards are opened when first touched.

    Args:
        n: length of the prefix, a count such as 4000 or "4k"; the whole dataset when None.

    A dataset holds a file open for every shard that was touched, and raises the process's limit of open files as far
    as it needs and may.

    Raises:
        ValueError: the folder holds no finished dataset, or fewer than n groups.
        DamageError: the manifest is not as it was written.
    """

    def __init__(self, directory: str | Path, *, n: int | str | None = None) -> None:
        self.directory = Path(directory)
        self._choose(load_manifest(self.directory), n)

    def _choose(self, manifest: Manifest, n: int | str | None) -> None:
        self.manifest = manifest
        held = manifest.num_groups
        self._length = held if n is None else check_whole("n", n, 1)
        if self._length > held:
            raise ValueError(f"--n {n}: {self.location} holds {held} groups; render more or ask for fewer")
        self._members = member_names(manifest.recipe)
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, MappedShard] = OrderedDict()
        self._most_open = allow_open_files(len(self.manifest.shards))
        self._is_spread = self.manifest.total_bytes > _SPREAD_BYTES

    def __getstate__(self) -> dict[str, object]:
        hidden = {"_lock", "_open", "_most_open", "_is_spread", "labels"}
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r}, n={len(self)})"

    def __getitem__(self, index: int) -> Group:
        metadata = self.metadata(index)
        return Group(
            index=metadata["index"],
            label=metadata["label"],
            class_name=metadata["class_name"],
            images=self.images(index),
            views=metadata["views"],
        )

    def __iter__(self) -> Iterator[Group]:
        return (self[index] for index in range(len(self)))

    @property
    def location(self) -> str:
        """Where the dataset lies, for messages."""
        return str(self.directory)

    @property
    def num_images(self) -> int:
        """Images of a group: anchor and views."""
        return self.manifest.num_images

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.manifest.recipe.image["size"]

    @property
    def classes(self) -> tuple[int, ...]:
        """Class ids of the recipe, ascending."""
        return self.manifest.recipe.classes

    @property
    def class_names(self) -> Mapping[int, str]:
        """Names of the classes that occur."""
        return self.manifest.class_names

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 [len]: class id of every group, from the offset files (the tars are not read)."""
        parts = [
            load_index(index_path(self.directory, shard.index), count=shard.count, num_members=len(self._members))[:, 0]
            for shard in self.manifest.shards
            if shard.first < len(self)
        ]
        labels = np.concatenate(parts)[: len(self)]
        labels.setflags(write=False)  # they are kept
        return labels

    def read(self, index: int, member: str) -> memoryview:
        """The bytes of one member, such as "anchor.jpg", without a copy."""
        if member not in self._members:
            raise ValueError(f"no member {member!r}: groups have {', '.join(self._members)}")
        column = 1 + 2 * self._members.index(member)
        shard, row = self._locate(index)
        offset, size = shard.index[row, column : column + 2].tolist()
        return shard.data[offset : offset + size]

    def offsets(self, shard_index: int) -> np.ndarray:
        """[count, 1 + 2 * members]: where the members of a shard lie; see shards.tar.make_index."""
        return self._shard(shard_index).index

    def metadata(self, index: int) -> dict[str, JSON]:
        """The group's json: index, label, class_name, views."""
        try:
            return parse_json(bytes(self.read(index, "json")))
        except DamageError as error:
            raise self._damage(f"{self._name(index, 'json')}: {error}") from error

    def latents(self, index: int) -> np.ndarray:
        """The group's latents, where the recipe stores them."""
        if not self.manifest.recipe.store_latents:
            raise ValueError(f"{self.location} stores no latents: render with --store-latents, or draw them again")
        try:
            return parse_array(self.read(index, "latents.npy"))
        except ValueError as error:
            raise self._damage(f"{self._name(index, 'latents.npy')} cannot be read ({error})") from error

    def images(self, index: int) -> np.ndarray:
        """One group's images, uint8 [K, height, width, 3]."""
        return self.batch([index])[0][0]

    def batch(
        self, indices: Sequence[int] | np.ndarray, *, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes groups, in the order given, into one array.

        Args:
            indices: whole numbers, [B]; of a mask, np.flatnonzero(mask).
            out: uint8 [B, K, height, width, 3] to fill, C-contiguous; a new one when None.

        Returns:
            The images, uint8 [B, K, height, width, 3], and the labels, int64 [B].

        Raises:
            ValueError: the indices are no list of whole numbers, or `out` has another shape or kind.
            IndexError: there is no such group.
            DamageError: an image does not decode or has another size, or a shard is missing or truncated.
        """
        wanted = _whole_indices(indices)
        shape = (len(wanted), self.num_images, self.image_size, self.image_size, 3)
        images = empty_pixels(shape) if out is None else out
        if not (
            isinstance(images, np.ndarray)
            and images.shape == shape
            and images.dtype == np.uint8
            and images.flags.c_contiguous
        ):
            raise ValueError(f"out: give a C-contiguous numpy array of uint8, {list(shape)}")
        labels = np.empty(len(wanted), np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"group {wanted.min()} to {wanted.max()}: the dataset holds 0 to {len(self) - 1}")

        columns = range(1, 1 + 2 * self.num_images, 2)
        files: list[memoryview] = []
        held: dict[int, MappedShard] = {}
        places_of_rows = (part.tolist() for part in np.divmod(wanted, self.manifest.shard_size))
        for position, (shard_index, row) in enumerate(zip(*places_of_rows, strict=True)):
            shard = held.get(shard_index)
            if shard is None:
                shard = held[shard_index] = self._shard(shard_index)
            offsets = shard.index[row].tolist()
            labels[position] = offsets[0]
            for column in columns:
                start = offsets[column]
                files.append(shard.data[start : start + offsets[column + 1]])
        try:
            decode_all_into(files, self.manifest.recipe.image["format"], images.reshape(-1, *shape[2:]))
        except ValueError:
            self._name_damage(wanted, files)
            raise
        return images, labels

    def _name_damage(self, wanted: np.ndarray, files: list[memoryview]) -> None:
        """Raises DamageError for the first image that does not decode."""
        place = np.empty((self.image_size, self.image_size, 3), np.uint8)
        for number, data in enumerate(files):
            try:
                decode_into(data, self.manifest.recipe.image["format"], place)
            except ValueError as error:
                position, member = divmod(number, self.num_images)
                name = self._name(int(wanted[position]), self._members[member])
                raise self._damage(f"{name} does not decode ({error})") from error

    def _locate(self, index: int) -> tuple[MappedShard, int]:
        number = operator.index(index)
        if not 0 <= number < len(self) or isinstance(index, bool):
            raise IndexError(f"group {index}: the dataset holds 0 to {len(self) - 1}")
        shard_index, row = divmod(number, self.manifest.shard_size)
        return self._shard(shard_index), row

    def _shard(self, shard_index: int) -> MappedShard:
        with self._lock:
            shard = self._open.get(shard_index)
            if shard is not None:
                self._open.move_to_end(shard_index)
                return shard
        shard = self._map_shard(shard_index)  # unlocked: it may have to come over a network
        with self._lock:
            shard = self._open.setdefault(shard_index, shard)
            if len(self._open) > self._most_open:
                self._open.popitem(last=False)
        return shard

    def _map_shard(self, shard_index: int) -> MappedShard:
        record = self.manifest.shards[shard_index]
        data = map_file(tar_path(self.directory, shard_index), self._damage, spread=self._is_spread)
        if len(data) < record.bytes:  # longer is fine: a growing dataset keeps what it held in its place
            path = tar_path(self.directory, shard_index)
            raise self._damage(f"{path} is truncated: {len(data)} bytes of {record.bytes}")
        try:
            path = index_path(self.directory, shard_index)
            index = load_index(path, count=record.count, num_members=len(self._members))
        except DamageError as error:
            raise self._damage(str(error)) from error
        return MappedShard(data, narrow_index(index, len(data)))

    def _damage(self, what: str) -> DamageError:
        directory = shlex.quote(str(self.directory))
        return DamageError(f"{what}; shards verify {directory} lists all damage and how to repair it")

    def _name(self, index: int, member: str) -> str:
        tar = tar_path(self.directory, index // self.manifest.shard_size)
        return f"{group_key(index)}.{member} in {tar}"


def _whole_indices(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):  # of a mask, int64 would make 0 and 1
        raise ValueError(
            f"indices of {wanted.dtype}, {list(wanted.shape)}: give whole numbers in one row; for a mask, "
            "np.flatnonzero(mask)"
        )
    return wanted.astype(np.int64)
