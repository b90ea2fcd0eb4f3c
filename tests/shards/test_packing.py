"""Real images in the format of rendered ones: order, pixels, resuming, growing, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import shards
from shards import GroupDataset
from shards.cifar10 import SHA256, sha256_of
from shards.cli import main
from shards.errors import DamageError
from shards.packing import balanced_order
from shards.pictures import list_image_folder, read_image

COUNTS = {"ant": 30, "bee": 21, "cat": 5}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of 30, 21 and 5 images of 8 px, every pixel telling class and number."""
    folder = tmp_path / "photos"
    for label, (name, count) in enumerate(COUNTS.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((8, 8, 3), (40 * label, number, 255 - number), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Everything but what tells times: markers, and the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.endswith(".done.json")}


# ---------------------------------------------------------------------------------------------------------------------
# Order


@pytest.mark.parametrize("counts", [(7, 7, 7), (30, 21, 5), (1, 400), (12,) * 10])
def test_every_prefix_is_balanced_as_far_as_the_classes_reach(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = balanced_order(labels, seed=3)
    assert sorted(order.tolist()) == list(range(len(labels)))
    held = np.zeros(len(counts), int)
    for row in order.tolist():
        held[labels[row]] += 1
        left = held < np.array(counts)  # classes that could have had more
        assert not left.any() or held[left].min() >= held.max() - 1


def test_the_order_is_a_function_of_labels_and_seed_and_stays() -> None:
    labels = np.arange(1000) % 7
    order = balanced_order(labels, seed=0)
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16] == "caf70a9ad819cf8f"
    assert not np.array_equal(order, balanced_order(labels, seed=1))
    first_of_class_0 = [int(balanced_order(labels, seed=seed)[0]) for seed in range(20)]
    assert len(set(first_of_class_0)) > 10  # neither class nor image comes first by its number


# ---------------------------------------------------------------------------------------------------------------------
# Contents


def test_groups_are_the_images_of_the_training_part(photos: Path, tmp_path: Path) -> None:
    manifest = shards.from_images(photos, out=tmp_path / "d", shard_size=20, quiet=True)
    assert (manifest.num_groups, len(manifest.shards), manifest.num_images) == (51, 3, 1)  # 27 + 19 + 5
    assert manifest.recipe.is_real and manifest.recipe.views == ()
    assert manifest.recipe.image == {"size": 8, "format": "png"}
    dataset = GroupDataset(tmp_path / "d")
    images, labels = dataset.batch(range(51))
    assert images.shape == (51, 1, 8, 8, 3)
    files, wanted, names = list_image_folder(photos, split="train")
    assert names == ("ant", "bee", "cat") and dict(dataset.class_names) == dict(enumerate(names))
    order = balanced_order(wanted, seed=0)
    for row, place in enumerate(order.tolist()):
        assert labels[row] == wanted[place]
        with Image.open(files[place]) as picture:
            assert np.array_equal(images[row, 0], np.asarray(picture))  # png: every pixel
    assert dataset.metadata(0) == {"index": 0, "label": int(labels[0]), "class_name": names[labels[0]], "views": []}
    report = shards.verify(tmp_path / "d")
    assert report.ok and report.images == 51
    card = (tmp_path / "d" / "README.md").read_text()
    assert "- synthetic" not in card and "one anchor and no views per group" in card
    assert ("source kind", "images") in shards.info(tmp_path / "d").rows()
    assert shards.preview(tmp_path / "d", out=tmp_path / "sheet.png").exists()


def test_training_and_test_part_share_no_image(photos: Path, tmp_path: Path) -> None:
    parts = {
        split: shards.from_images(photos, out=tmp_path / split, split=split, quiet=True) for split in ("train", "test")
    }
    whole = shards.from_images(photos, out=tmp_path / "all", split="all", quiet=True)
    assert parts["train"].num_groups + parts["test"].num_groups == whole.num_groups == sum(COUNTS.values())
    pixels = {
        name: {image.tobytes() for image in GroupDataset(tmp_path / name).batch(range(manifest.num_groups))[0]}
        for name, manifest in parts.items()
    }
    assert not pixels["train"] & pixels["test"]
    assert parts["train"].recipe.id != parts["test"].recipe.id


def test_other_sizes_are_fitted_when_asked_for_and_jpg_is_close(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), (9, 9, 9)).save(photos / "ant" / "wide.png")
    with pytest.raises(ValueError, match=r"not all of one square size \(8x8, 20x10\): give --size"):
        shards.from_images(photos, out=tmp_path / "d", quiet=True)
    options = {"size": 6, "format": "jpg", "quality": 90, "quiet": True}
    manifest = shards.from_images(photos, out=tmp_path / "d", **options)
    assert manifest.recipe.image == {"size": 6, "format": "jpg", "quality": 90, "subsampling": "444"}
    images, labels = GroupDataset(tmp_path / "d").batch(range(30))
    assert np.abs(images[..., 0].astype(int) - 40 * labels[:, None, None, None]).max() < 12


def test_arrays_as_contrast_data_cifar10_leaves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "arrays"
    source.mkdir()
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8), np.arange(40, dtype=np.uint8) % 10
    for name, array in (("images", pixels), ("labels", labels)):
        np.save(source / f"train-{name}.npy", array)
        monkeypatch.setitem(SHA256, f"train-{name}", sha256_of(array))
    manifest = shards.from_images(source, out=tmp_path / "d", n="0.02k", quiet=True)
    dataset = GroupDataset(tmp_path / "d")
    assert manifest.class_names[3] == "cat" and sorted(dataset.labels.tolist()) == sorted(list(range(10)) * 2)
    order = balanced_order(labels.astype(np.int64), seed=0)[:20]
    assert np.array_equal(dataset.batch(range(20))[0][:, 0], pixels[order])
    with pytest.raises(ValueError, match=r"no .*test-images\.npy: run contrast data cifar10"):
        shards.from_images(source, out=tmp_path / "t", split="test", quiet=True)
    np.savez(source / "other.npz", labels)
    (source / "other.npz").rename(source / "train-labels.npy")
    with pytest.raises(DamageError, match=r"train-labels\.npy cannot be read"):
        shards.from_images(source, out=tmp_path / "e", quiet=True)
    np.save(source / "train-labels.npy", labels[::-1])
    with pytest.raises(DamageError, match=r"train-labels\.npy is not CIFAR-10's: remove it and run contrast data"):
        shards.from_images(source, out=tmp_path / "e", quiet=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_datasets_reads_it(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    shards.from_images(photos, out=tmp_path / "d", quiet=True)
    from datasets import load_dataset

    rows = load_dataset(str(tmp_path / "d"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 51 and rows[0]["anchor.png"].size == (8, 8)


# ---------------------------------------------------------------------------------------------------------------------
# Resuming and growing


def test_killed_and_resumed_is_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    shards.from_images(photos, out=tmp_path / "whole", shard_size=10, quiet=True)
    code = (
        "import sys, shards, shards.packing as p\n"
        "publish = p.ShardWriter.publish\n"
        "p.ShardWriter.publish = lambda *a, **k: (publish(*a, **k), print('shard', flush=True))[0]\n"
        "add = p.ShardWriter.add\n"
        "def slow(self, **k):\n"
        "    add(self, **k)\n"
        "    if self._index == 2: sys.stdin.readline()\n"  # stands in the middle of a shard until it is killed
        "p.ShardWriter.add = slow\n"
        "shards.from_images(sys.argv[1], out=sys.argv[2], shard_size=10, quiet=True)\n"
    )
    command = [sys.executable, "-c", code, str(photos), str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == [b"shard\n"] * 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    markers = sorted(path.name for path in (tmp_path / "killed" / "data").glob("*.done.json"))
    assert markers == ["train-000000.done.json", "train-000001.done.json"]
    assert not (tmp_path / "killed" / "manifest.json").exists()
    times = {name: (tmp_path / "killed" / "data" / name).stat().st_mtime_ns for name in markers}
    assert "run the same shards from-images again" in dict(shards.info(tmp_path / "killed").rows())["state"]

    shards.from_images(photos, out=tmp_path / "killed", shard_size=10, quiet=True)
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert {name: (tmp_path / "killed" / "data" / name).stat().st_mtime_ns for name in markers} == times


def test_fewer_than_it_holds_are_its_beginning(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shards.from_images(photos, out=tmp_path / "d", n=17, shard_size=10, quiet=True)
    before = {path: path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()}
    assert shards.from_images(photos, out=tmp_path / "d", n=5, shard_size=10) == whole
    said = capsys.readouterr().err
    assert said.endswith("holds 17 groups: the first 5 are what was asked for\n") and said.count("\n") == 1
    assert {path: path.read_bytes() for path in (tmp_path / "d").rglob("*") if path.is_file()} == before


def test_grown_it_is_the_larger_one(photos: Path, tmp_path: Path) -> None:
    shards.from_images(photos, out=tmp_path / "grown", n=17, shard_size=10, quiet=True)
    small = GroupDataset(tmp_path / "grown").batch(range(17))[0]
    shards.from_images(photos, out=tmp_path / "grown", shard_size=10, quiet=True)
    shards.from_images(photos, out=tmp_path / "whole", shard_size=10, quiet=True)
    assert bytes_of(tmp_path / "grown") == bytes_of(tmp_path / "whole")
    assert np.array_equal(GroupDataset(tmp_path / "grown", n=17).batch(range(17))[0], small)


def test_a_damaged_marker_does_not_reach_the_manifest(photos: Path, tmp_path: Path) -> None:
    shards.from_images(photos, out=tmp_path / "d", shard_size=20, quiet=True)
    before = (tmp_path / "d/manifest.json").read_bytes()
    path = tmp_path / "d/data/train-000001.done.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "0" * 64}))
    arguments = ["from-images", str(photos), "--out", str(tmp_path / "d"), "--shard-size", "20"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and f"{path} was altered" in result.stderr
    assert "run the same shards from-images again" in result.stderr and result.stderr.count("\n") == 1
    assert (tmp_path / "d/manifest.json").read_bytes() == before


def test_a_changed_collection_is_another_dataset(photos: Path, tmp_path: Path) -> None:
    shards.from_images(photos, out=tmp_path / "d", n=10, quiet=True)
    pixels = np.zeros((8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(photos / "bee" / "00.png")
    with pytest.raises(ValueError, match=r"holds another dataset: source\.content_sha256"):
        shards.from_images(photos, out=tmp_path / "d", quiet=True)


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def test_an_image_that_does_not_decode_is_named_and_its_shard_is_not_there(photos: Path, tmp_path: Path) -> None:
    path = photos / "ant" / "07.png"
    path.write_bytes(path.read_bytes()[:45])  # its header is whole
    with pytest.raises(DamageError, match=r"ant/07\.png does not decode .*: repair or remove it"):
        shards.from_images(photos, out=tmp_path / "d", quiet=True)
    assert not list((tmp_path / "d" / "data").iterdir())


@pytest.mark.parametrize(
    ("levels", "name", "bits"), [("uint16", "d.png", 16), ("int32", "d.tif", 32), ("float32", "d.tif", 32)]
)
def test_grey_levels_of_more_than_8_bits_are_refused_before_anything_is_written(
    photos: Path, tmp_path: Path, levels: str, name: str, bits: int
) -> None:
    path = photos / "ant" / name
    Image.fromarray(np.full((8, 8), 1000, levels)).save(path)
    message = f"{path} holds {bits}-bit grey levels: convert it to 8 bit first"
    with pytest.raises(DamageError, match=f"^{message}$"):
        shards.from_images(photos, out=tmp_path / "d", quiet=True)
    assert not (tmp_path / "d").exists()
    with pytest.raises(DamageError, match=f"^{message}$"):
        read_image(path)


def test_an_image_larger_than_pillow_decodes_is_named(
    photos: Path, tmp_path: Path, huge_png: Callable[[int], bytes]
) -> None:
    (photos / "ant" / "huge.png").write_bytes(huge_png(20_000))
    result = CliRunner().invoke(main, ["from-images", str(photos), "--out", str(tmp_path / "d"), "--size", "8"])
    assert result.exit_code == 1 and not (tmp_path / "d").exists()
    assert f"{photos / 'ant' / 'huge.png'} does not decode (Image size (400000000 pixels) exceeds" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_grey_levels_of_8_bits_stay_what_they_are(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey > 128).save(tmp_path / "black_and_white.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "grey.png")), np.stack([grey] * 3, axis=-1))
    assert np.unique(np.asarray(read_image(tmp_path / "black_and_white.png"))).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "52"], "--n 52: {photos} holds 51 images (train); ask for fewer"),
        (["--quality", "90"], "quality 90: png has none; leave it out, or ask for --format jpg"),
        (["--format", "jpg", "--quality", "101"], "quality 101: give a whole number from 1 to 100"),
        (["--split", "val"], "'val' is not one of 'train', 'test', 'all'"),
        (["--seed", "-1"], "seed -1: give a whole number from 0 on"),
        (["--out", "{photos}"], "and is not a dataset: choose an empty or new folder"),
        (
            ["--out", "{photos}/packed"],
            "lies inside {photos}, and would be taken for a class: choose a folder elsewhere",
        ),
        (["--out", "{photos}/../photos/ant/d"], "lies inside {photos}, and would be taken for a class"),
    ],
)
def test_wrong_requests_are_one_line(photos: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    given = [argument.format(photos=photos) for argument in arguments]
    result = CliRunner().invoke(main, ["from-images", str(photos), "--out", str(tmp_path / "d"), *given])
    assert result.exit_code == 2, result.output
    assert message.format(photos=photos) in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "d").exists() and sorted(path.name for path in photos.iterdir()) == sorted(COUNTS)


def test_beside_train_and_test_a_dataset_is_no_class(photos: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        shutil.copytree(photos, tmp_path / "split" / part)
    packed = shards.from_images(tmp_path / "split", out=tmp_path / "split" / "packed", n=4, quiet=True)
    assert shards.from_images(tmp_path / "split", out=tmp_path / "split" / "packed", n=4, quiet=True) == packed
    with pytest.raises(ValueError, match=r"lies inside .* and would be taken for a class"):
        shards.from_images(tmp_path / "split", out=tmp_path / "split" / "val" / "packed", n=4, quiet=True)


@pytest.mark.parametrize("name", [".ipynb_checkpoints/9-checkpoint.png", "._00.png", "more/.cache/x.png"])
def test_hidden_files_are_passed_over(photos: Path, tmp_path: Path, name: str) -> None:
    before = list_image_folder(photos, split="all")[0]
    path = photos / "ant" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"what a program keeps there")
    (photos / ".trash").mkdir()
    assert list_image_folder(photos, split="all")[0] == before
    shards.from_images(photos, out=tmp_path / "d", quiet=True)


def test_what_is_no_file_is_refused_and_not_waited_for(photos: Path, tmp_path: Path) -> None:
    os.mkfifo(photos / "bee" / "pipe.png")
    result = CliRunner().invoke(main, ["from-images", str(photos), "--out", str(tmp_path / "d")])
    assert result.exit_code == 2 and f"{photos}/bee/pipe.png is no regular file: remove it" in result.stderr
    assert not (tmp_path / "d").exists()


def test_a_class_whose_name_no_manifest_holds_is_refused(photos: Path, tmp_path: Path) -> None:
    (photos / "cat").rename(os.fsdecode(os.fsencode(photos) + b"/caf\xe9"))
    result = CliRunner().invoke(main, ["from-images", str(photos), "--out", str(tmp_path / "d")])
    assert result.exit_code == 2 and "the class folder 'caf\\udce9' has no name in UTF-8: rename it" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not (tmp_path / "d").exists()


def test_no_folder_says_where_torchvision_s_come_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["from-images", "STL10", "--out", str(tmp_path / "d")])
    assert result.exit_code == 2 and "contrast data images STL10 --out FOLDER" in result.stderr


def test_the_command_says_what_it_made(photos: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["from-images", str(photos), "--out", str(tmp_path / "d"), "--n", "30", "--json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert (made["groups"], made["shards"], made["classes"]) == (30, 1, 3)
    again = CliRunner().invoke(main, ["from-images", str(photos), "--out", str(tmp_path / "d"), "--n", "30"])
    assert again.exit_code == 0 and again.stdout.startswith(f"{tmp_path / 'd'}: 30 images of 3 classes, 8 px png")
