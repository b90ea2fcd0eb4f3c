"""FFCV's file: what FFCV's own loader reads from it, what lies beside it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import shards
from shards import DamageError, GroupDataset, Manifest, Recipe
from shards.beton import FORMAT, BetonRecord, check_beton, fingerprint_of, read_beton_record, require_ffcv
from shards.cli import main
from shards.manifest import load_manifest
from shards.recipe import RenderSettings

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
    path.write_text(json.dumps({"format": FORMAT, "recipe": "?"}))
    with pytest.raises(DamageError, match="was altered"):
        read_beton_record(out)
    path.unlink()
    with pytest.raises(ValueError, match=r"no .*d\.beton\.json, which says of which dataset"):
        read_beton_record(out)


@pytest.fixture
def beton(shared_dataset: Path, tmp_path: Path) -> Path:
    """Nine of ten groups in shards of four, as to_ffcv records them; nobody looks into the file."""
    manifest = load_manifest(shared_dataset)
    (tmp_path / "d.beton").write_bytes(b"FFCV")
    record = BetonRecord(
        recipe_id=manifest.recipe.id,
        num_groups=9,
        num_images=2,
        image_size=8,
        mode="jpg",
        bytes=4,
        fingerprint=fingerprint_of(tmp_path / "d.beton"),
        render={"batch_size": 4, "dtype": "float32"},
        shard_size=4,
        shards=manifest.shards[0].sha256[:16] + manifest.shards[1].sha256[:16],
    )
    write_record(tmp_path / "d.beton", record.to_json())
    return tmp_path / "d.beton"


def write_record(beton: Path, record: dict[str, Any]) -> None:
    Path(f"{beton}.json").write_text(json.dumps({"format": FORMAT, **record}))


@needs_ffcv
def test_the_record_written_is_the_one_that_the_tests_below_take(
    beton: Path, shared_dataset: Path, tmp_path: Path
) -> None:
    made = shards.to_ffcv(shared_dataset, out=tmp_path / "made.beton", n=9, quiet=True)
    assert made.fingerprint == fingerprint_of(tmp_path / "made.beton")
    assert replace(made, bytes=4, fingerprint=fingerprint_of(beton)) == read_beton_record(beton)


def test_another_render_of_the_recipe_is_refused_and_a_grown_or_smaller_dataset_is_not(
    beton: Path, shared_dataset: Path, tmp_path: Path, build: Callable[..., Manifest]
) -> None:
    manifest = load_manifest(shared_dataset)
    for fitting in (manifest, build(tmp_path / "grown", 14), build(tmp_path / "small", 6)):
        check_beton(beton, fitting, num_groups=6)
    check_beton(beton, build(tmp_path / "other_shards", 10, shard_size=5), num_groups=9)  # cannot be compared

    bfloat16 = replace(manifest, render=RenderSettings(batch_size=4, dtype="bfloat16"))
    with pytest.raises(
        ValueError, match=r"is of another render of the same recipe \(.*float32.* in the file, .*bfloat16"
    ):
        check_beton(beton, bfloat16, num_groups=9)
    other_device = [*manifest.shards]
    other_device[1] = replace(other_device[1], sha256="0" * 64)
    with pytest.raises(ValueError, match=r"another render of the same recipe \(shard 1 had other bytes"):
        check_beton(beton, replace(manifest, shards=tuple(other_device)), num_groups=9)
    other_end = (*manifest.shards[:2], replace(manifest.shards[2], sha256="0" * 64))
    check_beton(beton, replace(manifest, shards=other_end), num_groups=9)  # the last one may grow


def test_a_record_of_another_format_is_refused_and_one_of_other_types_is_damage(
    beton: Path, shared_dataset: Path
) -> None:
    manifest = load_manifest(shared_dataset)
    record = read_beton_record(beton).to_json()
    write_record(beton, {**record, "format": 1})
    with pytest.raises(ValueError, match="of another version's format: write the file again"):
        check_beton(beton, manifest, num_groups=9)
    for field, value in (("recipe_id", None), ("num_groups", "9"), ("bytes", [4]), ("shards", 5), ("fingerprint", 5)):
        write_record(beton, {**record, field: value})
        with pytest.raises(DamageError, match=rf"was altered \(TypeError: {field} is "):
            check_beton(beton, manifest, num_groups=9)


def test_other_bytes_of_the_same_size_are_damage(beton: Path, shared_dataset: Path) -> None:
    beton.write_bytes(b"FFCW")
    with pytest.raises(DamageError, match=rf"{beton} was altered, or is not the file that {beton}\.json is of"):
        check_beton(beton, load_manifest(shared_dataset), num_groups=9)


@pytest.mark.parametrize("num_bytes", [1, 1 << 20, (1 << 24) - 1, 50_000_003])
def test_a_fingerprint_tells_files_of_one_size_apart(tmp_path: Path, num_bytes: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(num_bytes))
    found = {fingerprint_of(path)}
    places = {0, num_bytes // 3 if num_bytes < 1 << 24 else (num_bytes - (1 << 20)) // 3, num_bytes - 1}
    for place in places:
        data = bytearray(num_bytes)
        data[place] = 1
        path.write_bytes(data)
        found.add(fingerprint_of(path))
    assert len(found) == 1 + len(places)


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
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("dataset/data/train-000001.tar", "is among the dataset's shards: choose another place"),
        ("dataset/data/new.beton", "is among the dataset's shards: choose another place"),
        ("dataset/manifest.json", "is there, and no file of shards to-ffcv: choose another name"),
        ("thesis.tex", "is there, and no file of shards to-ffcv: choose another name"),
        ("dataset/manifest", "manifest.json is no record of an FFCV file"),
    ],
)
def test_nothing_else_is_overwritten(dataset: Path, tmp_path: Path, out: str, message: str) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    run = CliRunner().invoke(main, ["to-ffcv", str(dataset), "--out", str(tmp_path / out)])
    assert run.exit_code == 2 and message in run.stderr and run.stderr.count("\n") == 1, run.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@needs_ffcv
def test_a_file_of_ours_is_written_again(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.beton"
    first = shards.to_ffcv(dataset, out=out, quiet=True)
    out.unlink()
    assert shards.to_ffcv(dataset, out=out, quiet=True) == first
    Path(f"{out}.json").write_text("{")  # or somebody else's, as thesis.raw and thesis.raw.json
    with pytest.raises(ValueError, match=r"d\.beton\.json is no record of an FFCV file: .* or remove it first"):
        shards.to_ffcv(dataset, out=out, n=6, quiet=True)
    for path in (out, Path(f"{out}.json")):
        path.unlink()
    assert shards.to_ffcv(dataset, out=out, n=6, quiet=True) == read_beton_record(out) != first


@needs_ffcv
def test_mistakes_are_one_line(tmp_path: Path, build: Callable[..., Manifest], recipe: Callable[..., Recipe]) -> None:
    build(tmp_path / "png", 4, recipe=recipe(image={"size": 8, "format": "png"}))
    for options, message in (
        (["png", "--out", "d.beton", "--mode", "jpg"], "use --mode raw"),
        (["png", "--out", "d.beton", "--mode", "zip"], "'zip' is not one of 'jpg', 'raw'"),
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
