"""Random access gives the pixels that were written, in any order, from any thread or process, and names damage."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from shards import DamageError, GroupDataset, Manifest, Recipe, decode_image, encode_image
from shards.codec import decode_into, default_subsampling
from shards.mapping import allow_open_files, narrow_index

Build = Callable[..., Manifest]
MakeRecipe = Callable[..., Recipe]


def test_a_batch_is_what_the_members_decode_to(shared_dataset: Path) -> None:
    dataset = GroupDataset(shared_dataset)
    indices = [9, 0, 4, 4, 7]
    images, labels = dataset.batch(indices)
    assert images.shape == (5, 2, 8, 8, 3) and images.dtype == np.uint8 and labels.dtype == np.int64
    for row, index in enumerate(indices):
        for column, member in enumerate(("anchor.jpg", "view0.jpg")):
            assert np.array_equal(images[row, column], simplejpeg.decode_jpeg(dataset.read(index, member), "RGB"))
        group = dataset[index]
        assert (group.index, group.label, group.class_name) == (index, labels[row], dataset.class_names[labels[row]])
        assert np.array_equal(group.images, images[row]) and group.views == [{"policy": "gaussian", "std": 0.3}]
    assert labels.tolist() == dataset.labels[indices].tolist() == [[3, 5, 8][i % 3] for i in indices]


def test_properties(shared_dataset: Path) -> None:
    dataset = GroupDataset(shared_dataset)
    assert (len(dataset), dataset.num_images, dataset.image_size, dataset.classes) == (10, 2, 8, (3, 5, 8))
    assert len(dataset.labels) == 10 and [group.index for group in dataset] == list(range(10))


def test_a_batch_fills_the_array_it_is_given(shared_dataset: Path) -> None:
    dataset = GroupDataset(shared_dataset)
    out = np.zeros((3, 2, 8, 8, 3), np.uint8)
    images, _ = dataset.batch(np.array([1, 2, 3]), out=out)
    assert images is out and np.array_equal(out, dataset.batch([1, 2, 3])[0])
    assert dataset.batch([])[0].shape == (0, 2, 8, 8, 3)


@pytest.mark.parametrize("n", [1, 4, 6, 10])
def test_n_is_an_exact_prefix(shared_dataset: Path, n: int) -> None:
    whole, prefix = GroupDataset(shared_dataset), GroupDataset(shared_dataset, n=n)
    assert len(prefix) == len(prefix.labels) == n
    assert np.array_equal(prefix.batch(range(n))[0], whole.batch(range(n))[0])
    for outside in (n, -1):
        with pytest.raises(IndexError, match=f"the dataset holds 0 to {n - 1}"):
            prefix.batch([0, outside])
        with pytest.raises(IndexError):
            prefix.read(outside, "json")


@pytest.mark.parametrize(
    ("n", "message"),
    [(11, "--n 11: .* holds 10 groups; render more or ask for fewer"), (0, "n 0: give a whole number from 1 on")],
)
def test_a_prefix_that_is_not_there_is_refused(shared_dataset: Path, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupDataset(shared_dataset, n=n)


def test_png_and_latents_and_no_labels(tmp_path: Path, build: Build, recipe: MakeRecipe) -> None:
    build(tmp_path / "d", 5, recipe=recipe(image={"size": 8, "format": "png"}, store_latents=True, classes=()))
    dataset = GroupDataset(tmp_path / "d")
    assert dataset.labels.tolist() == [-1] * 5 and dataset[3].class_name == ""
    assert dataset.latents(3).tolist() == np.full((2, 4), 3.0).tolist()
    assert np.array_equal(dataset.images(3)[1], decode_image(dataset.read(3, "view0.png")))


def test_latents_that_are_not_stored_are_not_made_up(shared_dataset: Path) -> None:
    with pytest.raises(ValueError, match="--store-latents"):
        GroupDataset(shared_dataset).latents(0)


def test_threads_share_a_dataset(shared_dataset: Path) -> None:
    dataset = GroupDataset(shared_dataset)
    expected = GroupDataset(shared_dataset).batch(range(10))[0]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: dataset.batch(range(10))[0], range(40)))
    assert all(np.array_equal(result, expected) for result in results)


def test_a_pickled_dataset_opens_again(shared_dataset: Path) -> None:
    dataset = GroupDataset(shared_dataset, n=7)
    expected = dataset.batch(range(7))[0]
    assert len(dataset.labels) == 7
    copy = pickle.loads(pickle.dumps(dataset))
    assert len(copy) == 7 and np.array_equal(copy.batch(range(7))[0], expected)
    assert len(pickle.dumps(dataset)) < 5000


def test_more_shards_than_files_may_be_open(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "d", 40, shard_size=1)
    script = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (270, 270))
from shards import GroupDataset
dataset = GroupDataset(sys.argv[1])
for _ in range(2):
    dataset.batch(range(40))
print(len(dataset._open))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "d")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "14\n"


@pytest.mark.parametrize(("limit", "most_open"), [("22\n", 11), ("1\n", 1), ("65530\n", 40)])
def test_more_shards_than_may_be_mapped(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch, limit: str, most_open: int
) -> None:
    build(tmp_path / "d", 40, shard_size=1)
    expected = GroupDataset(tmp_path / "d").batch(range(40))[0]
    (tmp_path / "max_map_count").write_text(limit)
    monkeypatch.setattr("shards.mapping._MOST_MAPPINGS_FILE", tmp_path / "max_map_count")
    dataset = GroupDataset(tmp_path / "d")
    for _ in range(2):
        assert np.array_equal(np.concatenate([dataset.images(index)[None] for index in range(40)]), expected)
    assert len(dataset._open) == most_open


def test_without_a_limit_to_read_half_of_the_usual_one_may_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr("shards.mapping._MOST_MAPPINGS_FILE", tmp_path / "nowhere")
    assert (allow_open_files(100_000), allow_open_files(29_999)) == (32_765, 29_999)
    (tmp_path / "limit").write_text("262144\n")
    monkeypatch.setattr("shards.mapping._MOST_MAPPINGS_FILE", tmp_path / "limit")
    assert allow_open_files(100_000) == 100_000


@pytest.mark.parametrize(
    ("tar_bytes", "label", "dtype"),
    [(2**31 - 1, 2**31 - 1, np.int32), (2**31, 9, np.int64), (20480, 2**31, np.int64)],
)
def test_an_index_is_narrow_where_that_is_wide_enough(tar_bytes: int, label: int, dtype: type) -> None:
    index = np.array([[label, tar_bytes - 512, 100]])
    narrow = narrow_index(index, tar_bytes)
    assert narrow.dtype == dtype and np.array_equal(narrow, index)


def test_opening_reads_only_the_manifest(dataset: Path) -> None:
    for path in dataset.glob("data/*"):
        path.unlink()
    assert len(GroupDataset(dataset)) == 10


# ---------------------------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize("num_bytes", [5000, 20479])
def test_a_truncated_tar_is_named(dataset: Path, num_bytes: int) -> None:
    os.truncate(dataset / "data/train-000001.tar", num_bytes)
    opened = GroupDataset(dataset)
    opened.batch([0, 9])
    with pytest.raises(DamageError, match=rf"train-000001.tar is truncated: {num_bytes} bytes of 20480; shards verify"):
        opened.batch([0, 5])


@pytest.mark.parametrize("name", ["train-000001.tar", "train-000001.index.npy"])
def test_a_missing_file_is_named(dataset: Path, name: str) -> None:
    (dataset / "data" / name).unlink()
    with pytest.raises(DamageError, match=f"{name} is missing"):
        GroupDataset(dataset).images(4)


def test_an_empty_tar_and_a_broken_index_are_damage(dataset: Path) -> None:
    (dataset / "data/train-000000.tar").write_bytes(b"")
    (dataset / "data/train-000001.index.npy").write_bytes(b"nonsense")
    np.save(dataset / "data/train-000002.index.npy", np.zeros((1, 7), np.int64))
    for index, message in ((0, "is empty"), (4, "cannot be read"), (9, "not the offsets of 2 groups")):
        with pytest.raises(DamageError, match=message):
            GroupDataset(dataset).images(index)


def test_a_pipe_in_a_tar_s_place_is_not_waited_for(dataset: Path) -> None:
    (dataset / "data/train-000001.tar").unlink()
    os.mkfifo(dataset / "data/train-000001.tar")
    with pytest.raises(DamageError, match=r"train-000001\.tar is no regular file; shards verify"):
        GroupDataset(dataset).images(5)


def test_an_image_that_does_not_decode_is_named(dataset: Path) -> None:
    opened = GroupDataset(dataset)
    place = bytes((dataset / "data/train-000001.tar").read_bytes()).index(bytes(opened.read(5, "view0.jpg")))
    with open(dataset / "data/train-000001.tar", "r+b") as file:
        file.seek(place)
        file.write(bytes(40))
    with pytest.raises(DamageError, match=r"000000005.view0.jpg in .*train-000001.tar does not decode"):
        GroupDataset(dataset).batch([5])


def test_an_image_of_another_size_is_damage(
    tmp_path: Path, build: Build, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The recipe promises 8 px and the writer, which does not decode, is handed 4 px.
    real = recipe()
    small = encode_image(np.zeros((4, 4, 3), np.uint8), real.image)
    monkeypatch.setattr(sys.modules[build.__module__], "encode_image", lambda pixels, image: small)
    build(tmp_path / "d", 2)
    with pytest.raises(DamageError, match="4x4 pixels, not 8x8"):
        GroupDataset(tmp_path / "d").images(0)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_damage(data: bytes) -> None:
    with pytest.raises(DamageError, match=r"^here does not decode"):
        decode_image(data, what="here")


def test_a_png_of_another_size_is_refused_by_its_header(huge_png: Callable[[int], bytes]) -> None:
    place = np.empty((8, 8, 3), np.uint8)
    # Its pixels are missing: whoever decoded them first would say that.
    with pytest.raises(ValueError, match=r"^it has 2000x2000 pixels, not 8x8$"):
        decode_into(huge_png(2000), "png", place)
    with pytest.raises(ValueError, match=r"^(?!it has)"):
        decode_into(huge_png(8), "png", place)
    with pytest.raises(ValueError, match="400000000 pixels"):  # more than Pillow opens at all
        decode_into(huge_png(20_000), "png", place)
    with pytest.raises(DamageError, match=r"^here does not decode .*400000000 pixels"):
        decode_image(huge_png(20_000), what="here")


def test_the_codec_keeps_what_it_promises() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    png = {"size": 16, "format": "png"}
    assert np.array_equal(decode_image(encode_image(pixels, png)), pixels)
    flat = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    jpg = {"size": 16, "format": "jpg", "quality": 95, "subsampling": "444"}
    assert np.abs(decode_image(encode_image(flat, jpg)).astype(int) - flat).max() <= 2
    assert encode_image(pixels, jpg) != encode_image(pixels, {**jpg, "subsampling": "420"})
    assert (default_subsampling(127), default_subsampling(128)) == ("444", "420")


@pytest.mark.parametrize("indices", [[True, False], [1.9], ["1"], [[0, 1]], np.zeros(10, bool), 3])
def test_indices_are_whole_numbers(dataset: Path, indices: Any) -> None:
    with pytest.raises(ValueError, match=r"indices of .*: give whole numbers in one row; for a mask, np\.flatnonzero"):
        GroupDataset(dataset).batch(indices)
    for index in (1.7, "1", slice(0, 3)):
        with pytest.raises(TypeError):
            GroupDataset(dataset)[index]  # type: ignore[index]


def test_numpys_numbers_and_no_indices_at_all_are_taken(dataset: Path) -> None:
    groups = GroupDataset(dataset, n="10")
    assert groups[np.int64(3)].index == 3
    images, labels = groups.batch([])
    assert images.shape[0] == labels.shape[0] == 0
    assert np.array_equal(groups.batch(np.flatnonzero(groups.labels >= 0))[1], groups.labels)


def test_an_array_to_fill_has_to_fit(dataset: Path) -> None:
    groups = GroupDataset(dataset)
    shape = (2, groups.num_images, groups.image_size, groups.image_size, 3)
    for out in (np.empty(shape), np.empty(shape[1:], np.uint8), np.asfortranarray(np.empty(shape, np.uint8)), "out"):
        with pytest.raises(ValueError, match="out: give a C-contiguous numpy array of uint8"):
            groups.batch([0, 1], out=out)  # type: ignore[arg-type]
    assert groups.batch([0, 1], out=np.empty(shape, np.uint8))[0].shape == shape


def test_labels_are_kept_and_stay_as_they_are(dataset: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        GroupDataset(dataset).labels[0] = 99
