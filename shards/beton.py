"""An FFCV file and the record beside it, which says of which groups it is: `shards.converting` writes both.

    read_beton_record("datasets/demo/groups.beton").recipe_id
    check_beton("datasets/demo/groups.beton", manifest, num_groups=1000)

FFCV is an extra: nothing here imports it before it is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from shards.atomic import write_atomically
from shards.canonical import JSON, canonical_json, parse_json, shorten
from shards.errors import DamageError
from shards.manifest import Manifest

FORMAT = 2
BETON_NAME = "groups.beton"
"""The file's name in a dataset's folder, unless another place is given."""
_SHARD_DIGITS = 16
_BLOCK_BYTES = 1 << 20
_NUM_BLOCKS = 16


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
    # of one recipe apart.
    render: Mapping[str, JSON]
    """The render settings, as in the manifest."""
    shard_size: int
    shards: str
    """The first 16 digits of the sha256 of every shard that is whole in the dataset and in this file, one after the
    other: growing the dataset changes none of them."""
    fingerprint: str
    """See fingerprint_of; files of other datasets are often of one size."""

    def __post_init__(self) -> None:
        of_text = (("recipe_id", str), ("shards", str), ("fingerprint", str))
        for name, kind in (*of_text, ("num_groups", int), ("bytes", int), ("shard_size", int)):
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
        record = parse_record(path)
    except FileNotFoundError:
        raise ValueError(
            f"no {path}, which says of which dataset {beton} is: write both again with shards to-ffcv"
        ) from None
    size = Path(beton).stat().st_size
    if size != record.bytes:
        raise DamageError(f"{beton} has {size} bytes, not {record.bytes}; run shards to-ffcv again")
    if record.fingerprint != fingerprint_of(Path(beton)):
        raise DamageError(f"{beton} was altered, or is not the file that {path} is of; run shards to-ffcv again")
    return record


def write_record(beton: Path, record: BetonRecord) -> None:
    """Writes FILE.json beside an FFCV file, whole."""
    text = json.dumps({"format": FORMAT, **record.to_json()}, indent=1) + "\n"
    write_atomically(record_path(beton), text.encode())


def parse_record(path: Path) -> BetonRecord:
    """The record in a file FILE.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another version.
        DamageError: it is not as it was written.
    """
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
    if record.render != manifest.render.to_json():
        return f"{canonical_json(record.render)} in the file, {canonical_json(manifest.render.to_json())} asked for"
    if record.shard_size != manifest.shard_size:
        return None
    there = digits_of_shards(manifest, manifest.num_groups)
    for start in range(0, min(len(record.shards), len(there)), _SHARD_DIGITS):
        if record.shards[start : start + _SHARD_DIGITS] != there[start : start + _SHARD_DIGITS]:
            return f"shard {start // _SHARD_DIGITS} had other bytes when the file was written"
    return None


def digits_of_shards(manifest: Manifest, num_groups: int) -> str:
    """BetonRecord.shards of the first num_groups groups; the last shard is left out where it is short and may grow."""
    whole = manifest.shards[: num_groups // manifest.shard_size]
    return "".join(shard.sha256[:_SHARD_DIGITS] for shard in whole)
