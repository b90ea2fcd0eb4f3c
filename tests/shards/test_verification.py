"""verify finds every kind of damage, names what is damaged, and says how to repair it; the repair works."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from shards import DamageError, GroupDataset, Manifest, Recipe, encode_image, verify

Build = Callable[..., Manifest]

TAR = "data/train-000001.tar"
INDEX_DIFFERS = "index.npy does not agree with the tar, from group 000000006 on"


def alter(path: Path, old: bytes, new: bytes) -> None:
    """Replaces the first occurrence in place."""
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new, 1))


def flip_byte_in_padding(dataset: Path) -> None:
    data = bytearray((dataset / TAR).read_bytes())
    data[-1] ^= 1
    (dataset / TAR).write_bytes(data)


def flip_byte_in_image(dataset: Path) -> None:
    opened = GroupDataset(dataset)
    place = (dataset / TAR).read_bytes().index(bytes(opened.read(5, "anchor.jpg")))
    data = bytearray((dataset / TAR).read_bytes())
    data[place + 1] ^= 1  # the start-of-image marker
    (dataset / TAR).write_bytes(data)


def alter_index(dataset: Path, column: int) -> None:
    index = np.load(dataset / "data/train-000001.index.npy")
    index[2, column] += 1
    np.save(dataset / "data/train-000001.index.npy", index)


def flip_bit_in_index(dataset: Path) -> None:
    path = dataset / "data/train-000001.index.npy"
    data = bytearray(path.read_bytes())
    data[8] ^= 0x40  # the header's length
    path.write_bytes(data)


def alter_marker(dataset: Path) -> None:
    path = dataset / "data/train-000001.done.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "0" * 64}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "missing shard": (lambda d: (d / TAR).unlink(), f"{TAR} is missing", True),
    "truncated tar": (lambda d: os.truncate(d / TAR, 5000), f"{TAR} has 5000 bytes, not 20480", True),
    "empty tar": (lambda d: os.truncate(d / TAR, 0), f"{TAR} has 0 bytes", True),
    "missing marker": (lambda d: (d / "data/train-000001.done.json").unlink(), "done.json is missing", True),
    "altered marker": (alter_marker, "done.json does not agree with the manifest", True),
    "missing index": (lambda d: (d / "data/train-000001.index.npy").unlink(), "index.npy is missing", True),
    "missing checksums": (lambda d: (d / "SHA256SUMS").unlink(), "SHA256SUMS is missing", True),
    "altered checksums": (
        lambda d: alter(d / "SHA256SUMS", b"manifest", b"manifold"),
        "agree about manifest.json",
        True,
    ),
    "binary checksums": (
        lambda d: (d / "SHA256SUMS").write_bytes(b"\xff\xfe\x00"),
        "SHA256SUMS is not a text file",
        True,
    ),
    "a line too many in the checksums": (
        lambda d: (d / "SHA256SUMS").write_text((d / "SHA256SUMS").read_text() + "x\n"),
        "SHA256SUMS, line 5: 'x' is not a checksum",
        True,
    ),
    "a file too many in the checksums": (
        lambda d: (d / "SHA256SUMS").write_text(
            (d / "SHA256SUMS").read_text() + f"{'0' * 64}  data/train-000009.tar\n"
        ),
        "agree about data/train-000009.tar",
        True,
    ),
    "empty checksums": (lambda d: os.truncate(d / "SHA256SUMS", 0), "line 1: '' is not a checksum", True),
    "missing card": (lambda d: (d / "README.md").unlink(), "README.md is missing", True),
    "altered timm table": (lambda d: alter(d / "_info.json", b"10", b"11"), "_info.json does not agree", True),
    "altered name in a marker": (
        lambda d: alter(d / "data/train-000001.done.json", b'"cat"', b'"cow"'),
        "done.json does not agree with the manifest",
        True,
    ),
    "another render's marker": (
        lambda d: alter(d / "data/train-000001.done.json", b'"batch_size":4', b'"batch_size":8'),
        "done.json is of another recipe",
        True,
    ),
    "altered manifest": (lambda d: alter(d / "manifest.json", b'"cat"', b'"cow"'), "agree about manifest.json", True),
    "flipped byte after the end": (flip_byte_in_padding, "has sha256", False),
    "flipped byte in an image": (flip_byte_in_image, "000000005.anchor.jpg does not decode", False),
    "renamed member": (
        lambda d: alter(d / TAR, b"000000006.view0", b"000000006.view1"),
        "has no proper header of 000000006.view0.jpg",
        False,
    ),
    "another index": (lambda d: alter(d / TAR, b'"index":5', b'"index":6'), "index is 6, not 5", False),
    "a class that is none": (lambda d: alter(d / TAR, b'"label":8', b'"label":7'), "label 7 is not a class", False),
    "another class's name": (lambda d: alter(d / TAR, b'"dog"', b'"cat"'), "class_name is 'cat', not 'dog'", False),
    "views that are no list": (
        lambda d: alter(d / TAR, b'[{"policy":"gaussian","std":0.3}]', b'{"policy":"gaussian, std 0.3000"}'),
        "views does not describe 1 views",
        False,
    ),
    "a view too few": (
        lambda d: alter(d / TAR, b'[{"policy":"gaussian","std":0.3}]', b"[]".ljust(33)),
        "views does not describe 1 views",
        False,
    ),
    "broken json": (lambda d: alter(d / TAR, b'{"class_name"', b'["class_name"'), "is not JSON", False),
    "flipped bit in an index's header": (flip_bit_in_index, "index.npy cannot be read", False),
    "altered label in an index": (partial(alter_index, column=0), INDEX_DIFFERS, False),
    "altered offset in an index": (partial(alter_index, column=1), INDEX_DIFFERS, False),
    "altered size in an index": (partial(alter_index, column=-1), INDEX_DIFFERS, False),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_every_damage_is_found_named_and_can_be_repaired(dataset: Path, build: Build, kind: str) -> None:
    damage, message, seen_when_fast = DAMAGE[kind]
    damage(dataset)
    report = verify(dataset)
    assert not report.ok
    assert any(message in problem for problem in report.problems), report.problems
    assert all("\n" not in problem and "run the same synthgen render again" in problem for problem in report.problems)
    assert verify(dataset, fast=True).ok != seen_when_fast
    for problem in report.problems:
        if "; rm " in problem:
            pattern = problem.split("; rm ")[1].split(" and ")[0]
            for path in Path("/").glob(pattern.lstrip("/")):
                path.unlink()
    build(dataset, 10)
    assert verify(dataset).ok


def test_a_sound_dataset(shared_dataset: Path) -> None:
    report = verify(shared_dataset)
    assert report.ok and report.notes == ()
    assert (report.groups, report.images, report.shards) == (10, 20, 3)
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


def test_the_repair_can_be_pasted_into_a_shell(tmp_path: Path, build: Build) -> None:
    dataset = tmp_path / "with space"
    build(dataset, 10)
    os.truncate(dataset / TAR, 0)
    (problem,) = verify(dataset, fast=True).problems
    command = problem.split("; ")[1].split(" and run ")[0]
    subprocess.run(command, shell=True, check=True)
    assert sorted(dataset.glob("data/train-000001.*")) == [] and len(list(dataset.glob("data/*"))) == 6
    with pytest.raises(DamageError, match=f"shards verify '{dataset}' lists"):
        GroupDataset(dataset).images(5)


@pytest.mark.parametrize("is_vouched", [False, True], ids=["", "with its checksum"])
def test_a_class_name_altered_in_the_manifest_is_one_defect_of_the_manifest(
    dataset: Path, build: Build, is_vouched: bool
) -> None:
    path = dataset / "manifest.json"
    before = path.read_bytes()
    alter(path, b'"cat"', b'"cow"')
    alter(path, b'"dog"', b'"fox"')
    if is_vouched:
        digests = [hashlib.sha256(text).hexdigest().encode() for text in (before, path.read_bytes())]
        alter(dataset / "SHA256SUMS", *digests)
    problems = [problem for problem in verify(dataset).problems if not problem.startswith("SHA256SUMS")]
    assert problems == [
        "manifest.json was altered: it names class 3 'cow', its shards 'cat', and 1 more differ; "
        "run the same synthgen render again"
    ]
    build(dataset, 10)
    assert path.read_bytes() == before and verify(dataset).ok


def test_of_a_single_shard_the_manifest_with_its_checksum_is_believed(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "d", 4)
    alter(tmp_path / "d/data/train-000000.done.json", b'"cat"', b'"cow"')
    (problem,) = verify(tmp_path / "d").problems
    assert problem.startswith("data/train-000000.done.json does not agree with the manifest; rm ")


def test_all_problems_are_listed(dataset: Path) -> None:
    for image in range(2):
        member = ("anchor.jpg", "view0.jpg")[image]
        for index in (0, 5, 9):
            start = bytes(GroupDataset(dataset).read(index, member))
            alter(dataset / f"data/train-00000{index // 4}.tar", start, bytes(len(start)))
    decode = [problem for problem in verify(dataset).problems if "does not decode" in problem]
    assert len(decode) == 6


def test_processes_share_the_work_and_agree(dataset: Path) -> None:
    alter(dataset / TAR, b'"index":5', b'"index":6')
    assert verify(dataset, jobs=2).problems == verify(dataset).problems


def test_an_image_of_another_size_is_found(
    dataset: Path, tmp_path: Path, build: Build, recipe: Callable[..., Recipe]
) -> None:
    large = tmp_path / "large"
    build(large, 10, recipe=recipe(image={"size": 16, "format": "jpg", "quality": 95, "subsampling": "444"}))
    shutil.copy(large / TAR, dataset / TAR)
    assert any("it has 16x16 pixels, not 8x8" in problem for problem in verify(dataset).problems)


def test_png_latents_and_missing_labels_are_checked_too(
    tmp_path: Path, build: Build, recipe: Callable[..., Recipe]
) -> None:
    build(tmp_path / "d", 5, recipe=recipe(image={"size": 8, "format": "png"}, store_latents=True, classes=()))
    assert verify(tmp_path / "d").ok
    alter(tmp_path / "d/data/train-000000.tar", b"NUMPY", b"NUMPX")
    alter(tmp_path / "d/data/train-000000.tar", b"NUMPY\x01\x00\x76", b"NUMPY\x01\x00\x36")  # the next group's
    alter(tmp_path / "d/data/train-000000.tar", b"IDAT", b"IDAX")
    problems = verify(tmp_path / "d").problems
    assert any("000000001.latents.npy cannot be read" in problem for problem in problems)
    with pytest.raises(DamageError, match=r"000000001\.latents\.npy .*cannot be read"):
        GroupDataset(tmp_path / "d").latents(1)
    assert any("000000000.latents.npy cannot be read" in problem for problem in problems)
    assert any("000000000.anchor.png does not decode" in problem for problem in problems)


def test_a_png_larger_than_pillow_opens_is_damage_and_the_rest_is_checked_too(
    tmp_path: Path,
    build: Build,
    recipe: Callable[..., Recipe],
    huge_png: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The writer does not decode what it is handed; the third file is the anchor of group 1.
    small = encode_image(np.zeros((8, 8, 3), np.uint8), {"size": 8, "format": "png"})
    handed = [small, small, huge_png(20_000), *[small] * 7]
    monkeypatch.setattr(sys.modules[build.__module__], "encode_image", lambda pixels, image: handed.pop(0))
    build(tmp_path / "d", 5, recipe=recipe(image={"size": 8, "format": "png"}))
    (problem,) = verify(tmp_path / "d").problems
    assert problem.startswith("000000001.anchor.png does not decode (Image size (400000000 pixels)")


def test_unfinished_growth_is_a_note_not_damage(
    dataset: Path, build_shard: Callable[..., None], recipe: Callable[..., Recipe]
) -> None:
    build_shard(dataset, recipe(), 3, 12, 4)
    (dataset / "data/.train-000004.tar.9.tmp").write_bytes(b"")
    report = verify(dataset)
    assert report.ok and len(report.notes) == 2 and "growing was not finished" in report.notes[0]
    build_shard(dataset, recipe(), 2, 8, 4)
    assert list(verify(dataset).problems) == [
        "data/train-000002.tar holds more groups than the manifest: growing was not finished; "
        "run the same synthgen render again"
    ]


def test_a_script_without_a_guard_is_told_so(dataset: Path, tmp_path: Path) -> None:
    """Processes of the check import the main module, and here that starts the check again."""
    script = tmp_path / "script.py"
    script.write_text(f"import shards\nshards.verify({str(dataset)!r}, jobs=2, quiet=True)\n")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True)
    said = "ValueError: a process of the check was lost: use fewer jobs where memory was short; and a script that calls"
    assert result.returncode == 1
    assert any(line.startswith(said) for line in result.stderr.splitlines()), result.stderr  # beside its processes' own
