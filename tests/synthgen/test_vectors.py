"""Files of walks and directions: what is written is read, recipes find it by sha256, and nothing else passes for it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from synthgen.vectors import VectorFiles, VectorSet, check_vector_path, read_vectors, write_vectors
from synthgen.views import make_policy, policy_from_recipe

OWNER = SimpleNamespace(name="stripes", weights_sha256="a" * 64, latent_dim=8)
MATRIX = np.arange(16, dtype=np.float32).reshape(2, 8) / 7


def write(
    path: Path, *, kind: str = "walks", names: tuple[str, ...] = ("zoom", "rotate"), matrix: np.ndarray = MATRIX
) -> VectorSet:
    return write_vectors(path, kind=kind, names=names, matrix=matrix, generator=OWNER, settings={"steps": 3})


def test_what_is_written_is_read_by_us_and_by_anyone(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    written = write(path)
    assert written == read_vectors(path, kind="walks")
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (written.names, written.generator, written.settings) == (("zoom", "rotate"), "stripes", {"steps": 3})
    np.testing.assert_array_equal(written.matrix, MATRIX.astype(np.float64))
    with pytest.raises(ValueError, match="read-only"):
        written.matrix[0, 0] = 1
    with safe_open(path, framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("vectors"), MATRIX)
    assert [write(tmp_path / f"{i}.safetensors").sha256 for i in range(3)] == [written.sha256] * 3, "byte-stable"
    write(path, matrix=2 * MATRIX)
    assert read_vectors(path, kind="walks") != written, "a file that changed is read again"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_recipes_find_their_vectors_by_sha256_alone(tmp_path: Path) -> None:
    walks = write(tmp_path / "walks.safetensors")
    other = write(tmp_path / "other.safetensors", matrix=2 * MATRIX)
    entry = make_policy("steer", walks=walks).recipe()
    moved = Path(shutil.copy(tmp_path / "walks.safetensors", tmp_path / "moved.safetensors"))
    found = policy_from_recipe(entry, vectors=VectorFiles(paths=(tmp_path / "other.safetensors", moved)))
    assert found.vectors == (walks,) and other != walks

    with pytest.raises(ValueError, match=f"need the walks file with sha256 {walks.sha256[:12]}….*: give it as --walks"):
        policy_from_recipe(entry)
    with pytest.raises(ValueError, match=f"other.safetensors is walks {other.sha256[:12]}"):
        policy_from_recipe(entry, vectors=VectorFiles(paths=(tmp_path / "other.safetensors",)))
    with pytest.raises(ValueError, match="there is no such file"):
        policy_from_recipe(entry, vectors=VectorFiles(paths=(tmp_path / "gone.safetensors",)))


def test_directions_are_not_taken_for_walks(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    found = write(path, kind="directions")
    with pytest.raises(ValueError, match=r"--walks .*holds directions; make walks with synthgen steer train"):
        make_policy("steer", walks=path)
    with pytest.raises(ValueError, match=r"d\.safetensors is directions"):
        VectorFiles(paths=(path,)).find("walks", found.sha256)
    assert VectorFiles(paths=(path,)).find("directions", found.sha256) == found


def test_vectors_belong_to_one_generator(vectors: Callable[..., VectorSet]) -> None:
    walks = vectors("walks", dim=8, generator="stripes", weights_sha256="a" * 64)
    walks.check_generator(OWNER)  # type: ignore[arg-type]
    for change, what in (
        ({"weights_sha256": "b" * 64}, "belong to stripes"),
        ({"latent_dim": 9}, "are 8 numbers wide, and stripes takes 9"),
    ):
        with pytest.raises(ValueError, match=rf"the walks .* {what}.* make some with synthgen steer train"):
            walks.check_generator(SimpleNamespace(**{**vars(OWNER), **change}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"not a file of tensors at all", b"\xff" * 64], ids=range(4)
)
def test_foreign_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds no walks; make some with synthgen steer train"):
        read_vectors(path, kind="walks")


def test_tensors_of_others_and_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    save_file({"vectors": MATRIX}, tmp_path / "a.safetensors")
    write(tmp_path / "b.safetensors", matrix=MATRIX)
    broken = MATRIX.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"holds no walks"):
        read_vectors(tmp_path / "a.safetensors", kind="walks")
    with pytest.raises(ValueError, match="numbers that are not finite"):
        write(tmp_path / "b.safetensors", matrix=broken)
    np.testing.assert_array_equal(read_vectors(tmp_path / "b.safetensors", kind="walks").matrix, MATRIX)


@pytest.mark.parametrize("names", [("zoom", "zoom"), ("zoom", "policy"), ("drawn", "zoom"), ("zoom", 3)])
def test_names_that_groups_could_not_store_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"holds no walks"):
        write(tmp_path / "w.safetensors", names=names)


def test_paths_to_write_are_checked(tmp_path: Path) -> None:
    assert check_vector_path(tmp_path / "w.safetensors") == tmp_path / "w.safetensors"
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        check_vector_path(tmp_path / "w.pt")
    with pytest.raises(ValueError, match="there is no folder"):
        check_vector_path(tmp_path / "no" / "w.safetensors")
    write(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="a recipe may need it; choose another name"):
        check_vector_path(tmp_path / "w.safetensors")
