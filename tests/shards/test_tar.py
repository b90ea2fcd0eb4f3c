"""Our tars are Python's tarfile's tars, byte for byte, and the index is where tarfile finds the members."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from shards.errors import DamageError
from shards.tar import end_of_archive, load_index, make_index, member_header, padding


@pytest.mark.parametrize(("name", "size"), [("000000042.anchor.jpg", 1500), ("a" * 99, 8**11 - 1), ("x", 0)])
def test_headers_equal_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert member_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


@pytest.mark.parametrize(("name", "size"), [("a" * 100, 1), ("", 1), ("x", 8**11)])
def test_what_a_header_cannot_hold_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="at most"):
        member_header(name, size)


def test_whole_archives_equal_tarfile_and_the_index_finds_the_members() -> None:
    sizes = np.random.default_rng(0).integers(0, 3000, (7, 3))
    sizes[2, 1], sizes[3, 0] = 512, 0
    names = [[f"{row}.{column}" for column in range(3)] for row in range(7)]
    contents = [[bytes([row * 3 + column]) * sizes[row, column] for column in range(3)] for row in range(7)]

    reference = io.BytesIO()
    with tarfile.open(fileobj=reference, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in range(7):
            for column in range(3):
                info = tarfile.TarInfo(names[row][column])
                info.size = len(contents[row][column])
                tar.addfile(info, io.BytesIO(contents[row][column]))

    ours = b"".join(
        member_header(names[row][column], len(data)) + data + padding(len(data))
        for row in range(7)
        for column, data in enumerate(contents[row])
    )
    ours += end_of_archive(len(ours))
    assert ours == reference.getvalue()

    index = make_index(np.arange(7), sizes)
    assert index[:, 0].tolist() == list(range(7))
    with tarfile.open(fileobj=io.BytesIO(ours)) as tar:
        found = [(member.offset_data, member.size) for member in tar]
    assert index[:, 1:].reshape(-1, 2).tolist() == [list(place) for place in found]


@pytest.mark.parametrize("position", range(0, 128, 3))
@pytest.mark.parametrize("bit", [0, 4, 6])
def test_a_flipped_bit_in_an_index_s_header_is_damage_or_another_index(tmp_path: Path, position: int, bit: int) -> None:
    index = make_index(np.arange(4), np.full((4, 3), 700))
    np.save(tmp_path / "i.npy", index)
    data = bytearray((tmp_path / "i.npy").read_bytes())
    data[position] ^= 1 << bit
    (tmp_path / "i.npy").write_bytes(data)
    try:
        assert np.array_equal(load_index(tmp_path / "i.npy", count=4, num_members=3), index)
    except DamageError as error:
        assert str(error).startswith(f"{tmp_path / 'i.npy'} ")


def test_other_files_of_numpy_s_are_no_index(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", make_index(np.arange(4), np.full((4, 3), 700)))
    with pytest.raises(DamageError, match=r"i\.npz cannot be read"):
        load_index(tmp_path / "i.npz", count=4, num_members=3)


@pytest.mark.parametrize("offset", [0, 512, 9216, 9728, 10240])
def test_archives_end_on_a_whole_record(offset: int) -> None:
    end = end_of_archive(offset)
    assert len(end) >= 1024 and (offset + len(end)) % 10240 == 0 and not any(end)
