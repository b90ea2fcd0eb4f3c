"""Classes: ids, names and ImageNet's ids mean what they say, in lists, files and the lists of the literature."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_pretrained_biggan.utils import IMAGENET

import synthgen
from synthgen.adapters.weight_files import default_class_names
from synthgen.classes import NAMED_LISTS, parse_classes, read_class_list

NAMES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_classes_from_text_and_file(tmp_path: Path) -> None:
    assert parse_classes("all", num_classes=4) == (0, 1, 2, 3)
    assert parse_classes("all", num_classes=0) == ()
    assert parse_classes("7, 0,3", num_classes=10) == (0, 3, 7)
    for classes in ((7, 0, 3), [7, 0, 3], np.array([7, 0, 3]), {7, 0, 3}):
        assert parse_classes(classes, num_classes=10) == (0, 3, 7)
    file = tmp_path / "ids.txt"
    file.write_text("# animals\n7  # horse\n\n3\n")
    assert parse_classes(str(file), num_classes=10) == (3, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,10", "no class 10"),
        ("-1", "not a class id"),
        ("0,,3", "not a class id"),
        ("cat,3", "class 3 is given twice"),
        ("cat,dgo", "'dgo' is not a class id or name; did you mean 'dog'"),
        ("Cat", "give all, ids such as 0,3,7, class names"),
        ("cat,", "'' is not a class id or name"),
        ("n02123045", "n02123045 is ImageNet's id; this generator has 10 classes"),
        ("imagenet100", "imagenet100: it lists ImageNet's classes; this generator has 10"),
        ("3,3", "given twice"),
        ("animals.txt", "existing file"),
        ("", "existing file"),
        ([0, 10], "no class 10"),
        ([0, True], "'True' is not a class id"),
        ([0.5], "'0.5' is not a class id"),
        ((), "at least one"),
        (3, r"such as \[0, 3, 7\]"),
    ],
)
def test_wrong_classes_are_named(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_classes(text, num_classes=10, class_names=NAMES)


def test_a_file_may_begin_as_windows_begins_it(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbf3\r\n1\r\n")
    assert parse_classes(str(tmp_path / "classes.txt"), num_classes=5, class_names=tuple("abcde")) == (1, 3)


def test_wrong_class_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"ids\.txt: no class id"):
        parse_classes(str(file), num_classes=10)
    file.write_text("3\nhorse\n")
    with pytest.raises(ValueError, match=r"ids\.txt: 'horse'"):
        parse_classes(str(file), num_classes=10)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"^--classes .*ids\.txt: not a text file") as caught:
        parse_classes(str(file), num_classes=10)
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match="no classes"):
        parse_classes("0", num_classes=0)


def test_names_mean_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_classes("dog, cat", num_classes=10, class_names=NAMES) == (3, 5)
    assert parse_classes("9,cat", num_classes=10, class_names=NAMES) == (3, 9)
    assert parse_classes(["dog", 0], num_classes=10, class_names=NAMES) == (0, 5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").write_text("ship\n0\n")
    assert parse_classes("cat", num_classes=10, class_names=NAMES) == (3,), "the class, not the file"
    assert parse_classes("./cat", num_classes=10, class_names=NAMES) == (0, 8)
    assert parse_classes("7", num_classes=10, class_names=tuple("9876543210")) == (7,), "a number is an id"


def test_a_long_list_of_nothing_known_is_a_short_message() -> None:
    with pytest.raises(ValueError, match=r"--classes (zebra,){20}…: give all") as caught:
        parse_classes(",".join(["zebra"] * 3000), num_classes=10, class_names=[str(i) for i in range(10)])
    assert len(str(caught.value)) < 250


def test_a_list_longer_than_any_file_name_is_a_list() -> None:
    names = [f"class number {label}" for label in range(1000)]
    assert len(parse_classes(",".join(names), num_classes=1000, class_names=names)) == 1000
    with pytest.raises(ValueError, match="'class number one' is not a class id or name"):
        parse_classes(",".join([*names, "class number one"]), num_classes=1000, class_names=names)


def test_a_name_of_two_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="--classes: 'crane' names classes 0, 2; give the id"):
        parse_classes("crane", num_classes=3, class_names=("crane", "drill", "crane"))


def test_imagenet_ids_are_the_published_order() -> None:
    """Oracle: the table that the published BigGAN's package looks its classes up in."""
    wnids = read_class_list("imagenet")
    assert {int(wnid[1:]): label for label, wnid in enumerate(wnids)} == IMAGENET
    assert list(wnids) == sorted(wnids) and len(wnids) == 1000
    assert parse_classes("n01440764,n15075141", num_classes=1000) == (0, 999)
    with pytest.raises(ValueError, match="n00000001 is none of ImageNet's"):
        parse_classes("n00000001", num_classes=1000)


def test_imagenet_names_are_in_the_same_order() -> None:
    """Oracle: torchvision's own pairs of ids and names, of the ten classes of Imagenette."""
    from torchvision.datasets import Imagenette

    names = default_class_names(1000)
    pairs = Imagenette._WNID_TO_CLASS
    assert len(pairs) == 10
    for wnid, known in pairs.items():
        label = parse_classes(wnid, num_classes=1000)[0]
        assert names[label] in known
        assert parse_classes(names[label], num_classes=1000, class_names=names) == (label,)
    assert len(set(names)) == 1000, "every name means one class"


def test_imagenet100_is_the_list_of_the_literature() -> None:
    """sha256 of imagenet100.txt as the authors of "Contrastive Multiview Coding" keep it, byte for byte."""
    text = "".join(f"{wnid}\n" for wnid in read_class_list("imagenet100"))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "79f3f1552ccc478ce24bd934b4573625db584ddc1f4643ae23c994a94cb11397"
    )
    chosen = parse_classes("imagenet100", num_classes=1000)
    assert len(chosen) == 100 and list(chosen) == sorted(chosen)
    wnids = read_class_list("imagenet")
    assert {wnids[label] for label in chosen} == set(read_class_list("imagenet100"))
    assert NAMED_LISTS == ("imagenet100",)


def test_names_reach_the_recipe(tiny_weights: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"weights": tiny_weights, "devices": "cpu", "dtype": "float32", "quiet": True}
    manifest = synthgen.render(n=4, out=tmp_path / "d", classes="cat,dog", **options)
    assert manifest.class_names == {3: "cat", 5: "dog"}
    assert synthgen.render(n=4, out=tmp_path / "d", classes=[5, 3], **options) == manifest
