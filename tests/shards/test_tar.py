"""Our tars are Python's tarfile's tars, byte for byte, and the index is where tarfile finds the members."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from shards.tar import end_of_archive, make_index, member_header, padding


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


@pytest.mark.parametrize("offset", [0, 512, 9216, 9728, 10240])
def test_archives_end_on_a_whole_record(offset: int) -> None:
    end = end_of_archive(offset)
    assert len(end) >= 1024 and (offset + len(end)) % 10240 == 0 and not any(end)
