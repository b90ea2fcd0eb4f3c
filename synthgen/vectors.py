"""Vectors of a generator's latent space on disk: learned walks and closed-form directions, pinned by sha256.

One safetensors file holds one float32 tensor [count, latent dimension] and, in its header, the names of the rows and
the generator that they belong to. A recipe keeps the sha256 alone, so whoever renders it again needs recipe and file.

    walks = read_vectors(Path("walks.safetensors"), kind="walks")
    walks.names, walks.matrix.shape                          # ("zoom", "rotate"), (2, 128)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.atomic import write_atomically
from shards.canonical import canonical_json

if TYPE_CHECKING:
    from synthgen.adapters.protocol import Generator

PACKAGE_FOLDER = Path(__file__).parent / "adapters" / "weights"
_TENSOR = "vectors"
_HEADER = "synthgen"  # one key: safetensors writes several in no fixed order
_MADE_BY = {"walks": "synthgen steer train", "directions": "synthgen directions"}
_RESERVED = {"policy", "drawn", "steps", "degrees", "radius"}  # what groups store of a view under other meanings
_FIELDS = {"kind": str, "names": list, "generator": str, "weights_sha256": str, "settings": dict}


@dataclass(frozen=True, kw_only=True)
class VectorSet:
    """Named vectors of one generator's latent space, as a file holds them; equal files are equal."""

    kind: str
    """walks or directions."""
    sha256: str
    """Of the file (hex): what recipes keep."""
    names: tuple[str, ...] = field(compare=False)
    """One per row: the edit, or the direction's rank."""
    matrix: NDArray[np.float64] = field(compare=False, repr=False)
    """[rows, latent dimension]; not to be written to."""
    generator: str = field(compare=False)
    weights_sha256: str = field(compare=False)
    """Of the generator that they were made for."""
    settings: Mapping[str, Any] = field(compare=False)
    """How they were made, and how well."""

    def check_generator(self, generator: Generator) -> None:
        """Raises ValueError unless the vectors belong to these very weights."""
        if (self.weights_sha256, self.matrix.shape[1]) == (generator.weights_sha256, generator.latent_dim):
            return
        if self.weights_sha256 == generator.weights_sha256:
            raise ValueError(
                f"the {self.kind} {self.sha256[:12]}… are {self.matrix.shape[1]} numbers wide, and {generator.name} "
                f"takes {generator.latent_dim}: make some with {_MADE_BY[self.kind]}, and give them as --{self.kind}"
            )
        raise ValueError(
            f"the {self.kind} {self.sha256[:12]}… belong to {self.generator} with weights {self.weights_sha256[:12]}…, "
            f"not to {generator.name} with {generator.weights_sha256[:12]}…: make some with {_MADE_BY[self.kind]}, "
            f"and give them as --{self.kind}"
        )


def write_vectors(
    path: Path,
    *,
    kind: str,
    names: Sequence[str],
    matrix: NDArray[np.float32],
    generator: Generator,
    settings: Mapping[str, Any],
) -> VectorSet:
    """Writes a file of vectors [rows, latent dimension], whole or not at all, and gives what it holds.

    Raises:
        ValueError: a number is not finite; nothing is written.
    """
    from safetensors.numpy import save

    if not np.isfinite(matrix).all():
        raise ValueError(
            f"the {kind} came out with numbers that are not finite: look at {generator.name}'s images first"
        )
    assert kind in _MADE_BY and matrix.shape == (len(names), generator.latent_dim), (kind, matrix.shape)
    header = {
        "kind": kind,
        "names": list(names),
        "generator": generator.name,
        "weights_sha256": generator.weights_sha256,
        "settings": dict(settings),
    }
    tensors = {_TENSOR: np.ascontiguousarray(matrix, dtype=np.float32)}
    write_atomically(path, save(tensors, metadata={_HEADER: canonical_json(header)}))
    return read_vectors(path, kind=kind)


def check_vector_path(out: str | Path) -> Path:
    """The path of a file to be written.

    Raises:
        ValueError: another kind of name, a folder that is not there, or a file that is: recipes pin such files.
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise ValueError(f"--out {path}: give a file name that ends in .safetensors")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}; make it or choose another")
    if path.exists():
        raise ValueError(f"--out {path}: is there, and a recipe may need it; choose another name, or remove it first")
    return path


def read_vectors(path: str | Path, *, kind: str) -> VectorSet:
    """The vectors in a file.

    Raises:
        ValueError: no such file, or it holds no such vectors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"--{kind} {path}: there is no such file; make one with {_MADE_BY[kind]}")
    found = _read(path)
    if found is None:
        raise ValueError(f"--{kind} {path}: holds no {kind}; make some with {_MADE_BY[kind]}")
    if found.kind != kind:
        raise ValueError(f"--{kind} {path}: holds {found.kind}; make {kind} with {_MADE_BY[kind]}")
    return found


def _read(path: Path) -> VectorSet | None:
    """Whatever vectors a file holds; None where it holds none."""
    state = path.stat()
    return _read_unchanged(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)  # workers ask again for every block
def _read_unchanged(path: Path, changed_ns: int, size: int) -> VectorSet | None:
    data = path.read_bytes()
    try:
        header, matrix = _parse(data)
    except Exception:  # parsers say many things about foreign bytes
        return None
    names = header["names"]
    if matrix.shape[:-1] != (len(names),) or not np.isfinite(matrix).all() or not names:
        return None
    if len(set(names)) < len(names) or _RESERVED & set(names):
        return None
    matrix.setflags(write=False)
    return VectorSet(
        kind=header["kind"],
        sha256=hashlib.sha256(data).hexdigest(),
        names=tuple(names),
        matrix=matrix,
        generator=header["generator"],
        weights_sha256=header["weights_sha256"],
        settings=header["settings"],
    )


def _parse(data: bytes) -> tuple[dict[str, Any], NDArray[np.float64]]:
    from safetensors.numpy import load

    length = int.from_bytes(data[:8], "little")  # safetensors: length of the JSON header, then the header
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEADER])
    if not all(isinstance(header[name], kind) for name, kind in _FIELDS.items()) or header["kind"] not in _MADE_BY:
        raise ValueError("its header is another one")
    if not all(isinstance(name, str) for name in header["names"]):
        raise ValueError("its names are no texts")
    return header, load(data)[_TENSOR].astype(np.float64)


def package_vectors(kind: str, generator: str) -> Path:
    """The vectors that the package has for a generator of its own.

    Raises:
        ValueError: there are none.
    """
    path = PACKAGE_FOLDER / f"{generator}.{kind}.safetensors"
    if path.parent != PACKAGE_FOLDER or not path.is_file():
        raise ValueError(
            f"the package has no {kind} for {generator}: make some with {_MADE_BY[kind]}, and give them as --{kind}"
        )
    return path


@dataclass(frozen=True, kw_only=True)
class VectorFiles:
    """Files in which the vectors that a recipe names by sha256 are looked for; the package's own come last."""

    paths: tuple[Path, ...] = ()

    @classmethod
    def of(cls, *paths: Path | None) -> VectorFiles:
        """The files that were given, of those that may be."""
        return cls(paths=tuple(path for path in paths if path is not None))

    def find(self, kind: str, sha256: str) -> VectorSet:
        """The vectors with this sha256.

        Raises:
            ValueError: none of the files is it, or one of them is not there.
        """
        tried = []
        for path in (*self.paths, *sorted(PACKAGE_FOLDER.glob(f"*.{kind}.safetensors"))):
            if not path.is_file():
                raise ValueError(f"--{kind} {path}: there is no such file; put it back, or give another path")
            found = _read(path)
            if found is not None and (found.kind, found.sha256) == (kind, sha256):
                return found
            if path in self.paths:
                tried.append(f"{path} is {found.kind} {found.sha256[:12]}…" if found else f"{path} holds none")
        seen = f" ({'; '.join(tried)})" if tried else ""
        raise ValueError(f"these views need the {kind} file with sha256 {sha256[:12]}…{seen}: give it as --{kind}")
