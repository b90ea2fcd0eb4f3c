"""FFCV's file: what FFCV's own loader reads from it, what lies beside it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import shards
from shards import DamageError, GroupDataset, Manifest, Recipe
from shards.beton import check_beton, read_beton_record, require_ffcv
from shards.cli import main

needs_ffcv = pytest.mark.skipif(find_spec("ffcv") is None, reason="FFCV is not installed: make setup-ffcv")
# FFCV's own imports, and numba's compiler.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore:.*numba.*")]


@needs_ffcv
def test_a_stranger_reads_the_groups_with_ffcv_alone(shared_dataset: Path, tmp_path: Path) -> None:
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    run = CliRunner().invoke(main, ["to-ffcv", str(shared_dataset), "--out", str(tmp_path / "d.beton"), "--n", "9"])
    assert run.exit_code == 0 and run.stdout.startswith(f"wrote {tmp_path / 'd.beton'}: 9 groups, jpg, "), run.output
    decoders = {"image0": [SimpleRGBImageDecoder()], "image1": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
    loader = Loader(
        str(tmp_path / "d.beton"),
        batch_size=9,
        num_workers=1,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines=decoders,
    )
    ((anchors, views, labels),) = list(loader)
    images, expected = GroupDataset(shared_dataset, n=9).batch(range(9))
    assert labels[:, 0].tolist() == expected.tolist()
    difference = np.abs(np.stack([anchors, views], axis=1).astype(int) - images)
    assert difference.max() <= 16 and difference.mean() < 4  # its decoder is coarse
    data = (tmp_path / "d.beton").read_bytes()
    assert all(bytes(GroupDataset(shared_dataset).read(index, "view0.jpg")) in data for index in range(9))


@needs_ffcv
def test_the_record_says_of_which_groups_the_file_is(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Manifest], recipe: Callable[..., Recipe]
) -> None:
    out = tmp_path / "d.beton"
    record = shards.to_ffcv(shared_dataset, out=out, n=6, mode="raw", quiet=True)
    manifest = GroupDataset(shared_dataset).manifest
    assert read_beton_record(out) == record == check_beton(out, manifest, num_groups=6)
    assert (record.recipe_id, record.num_groups, record.mode) == (manifest.recipe.id, 6, "raw")
    with pytest.raises(ValueError, match="holds 6 groups of the 7 asked for"):
        check_beton(out, manifest, num_groups=7)
    other = build(tmp_path / "other", 6, recipe=recipe(seed=1))
    with pytest.raises(ValueError, match="is of another dataset"):
        check_beton(out, other, num_groups=6)
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(DamageError, match="run shards to-ffcv again"):
        read_beton_record(out)
    path = Path(f"{out}.json")
    path.write_text(json.dumps({"format": 1, "recipe": "?"}))
    with pytest.raises(DamageError, match="was altered"):
        read_beton_record(out)
    path.unlink()
    with pytest.raises(ValueError, match=r"no .*d\.beton\.json, which says of which dataset"):
        read_beton_record(out)


@needs_ffcv
def test_damage_leaves_no_file_and_does_not_hang(dataset: Path, tmp_path: Path) -> None:
    tar = dataset / "data/train-000001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd8", b"\0\0"))
    with pytest.raises(DamageError, match="does not decode"):
        shards.to_ffcv(dataset, out=tmp_path / "d.beton", mode="raw", quiet=True)
    tar.unlink()
    with pytest.raises(DamageError, match=r"train-000001\.tar is missing"):
        shards.to_ffcv(dataset, out=tmp_path / "d.beton", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@needs_ffcv
def test_mistakes_are_one_line(tmp_path: Path, build: Callable[..., Manifest], recipe: Callable[..., Recipe]) -> None:
    build(tmp_path / "png", 4, recipe=recipe(image={"size": 8, "format": "png"}))
    for options, message in (
        (["png", "--out", "d.beton", "--mode", "jpg"], "use --mode raw"),
        (["png", "--out", "d.beton", "--mode", "zip"], "unknown mode 'zip': choose jpg or raw"),
        (["png", "--out", "png"], "is a folder: name a file"),
        (["png", "--out", "no/d.beton"], "create it first"),
        (["png", "--out", "d.beton", "--n", "5"], "holds 4 groups"),
        (["nowhere", "--out", "d.beton"], "no folder"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            run = CliRunner().invoke(main, ["to-ffcv", *options])
        assert run.exit_code == 2 and message in run.stderr and run.stderr.count("\n") == 1, run.output


def test_without_ffcv_the_extra_and_the_target_are_named(monkeypatch: pytest.MonkeyPatch, shared_dataset: Path) -> None:
    monkeypatch.setattr("shards.beton.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"run make setup-ffcv, .*pip install -e '\.\[ffcv\]' in the clone"):
        require_ffcv()
    run = CliRunner().invoke(main, ["to-ffcv", str(shared_dataset), "--out", "d.beton"])
    assert run.exit_code == 2 and "make setup-ffcv" in run.stderr
