"""verify-render: sound datasets are called sound, and whatever a render should never have written is found."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import synthgen
from shards.canonical import canonical_json
from shards.manifest import Manifest, load_manifest, manifest_bytes
from shards.markers import read_marker
from shards.recipe import Recipe, RenderSettings
from synthgen.cli import main
from synthgen.sameness import CLOSE, Comparison
from synthgen.verification import choose_groups


@pytest.fixture(scope="module")
def rendered(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 groups in shards of 30 and blocks of 20, with latents; not to be written to."""
    folder = tmp_path_factory.mktemp("rendered") / "d"
    settings = {"weights": tiny_weights, "devices": "cpu", "dtype": "float32", "batch_size": 20, "shard_size": 30}
    synthgen.render(n=70, out=folder, store_latents=True, quiet=True, **settings)
    return folder


def run(folder: Path, weights: Path, *options: str) -> Result:
    arguments = ["verify-render", str(folder), f"--weights={weights}", "--device=cpu", "--quiet", *options]
    return CliRunner().invoke(main, arguments, prog_name="synthgen")


def rewrite(folder: Path, shard: int, change: Callable[[bytes], bytes]) -> None:
    """Changes a tar and makes marker and manifest agree with it: shards verify sees nothing wrong with the sums."""
    tar = folder / "data" / f"train-{shard:06d}.tar"
    data = change(tar.read_bytes())
    assert data != tar.read_bytes() and len(data) == tar.stat().st_size
    tar.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    marker = read_marker(folder, shard)
    assert marker is not None
    path = folder / "data" / f"train-{shard:06d}.done.json"
    path.write_text(canonical_json(replace(marker, sha256=digest).to_json()))
    manifest = load_manifest(folder)
    shards = tuple(replace(s, sha256=digest) if s.index == shard else s for s in manifest.shards)
    (folder / "manifest.json").write_bytes(manifest_bytes(replace(manifest, shards=shards)))


def set_environment(folder: Path, *, shards: Sequence[int] = range(3), **changes: str) -> None:
    for shard in shards:
        path = folder / "data" / f"train-{shard:06d}.done.json"
        data = json.loads(path.read_text())
        data["environment"].update(changes)
        path.write_text(json.dumps(data))


def swap_images(data: bytes) -> bytes:
    """The anchors of groups 30 and 31 in each other's place, where both fill their blocks alike."""
    from shards.tar import BLOCK_BYTES, member_header

    def place(name: str) -> tuple[int, int]:
        start = data.index(name.encode())
        return start, int(data[start + 124 : start + 135], 8)

    (a, a_bytes), (b, b_bytes) = place("000000030.anchor.jpg"), place("000000031.anchor.jpg")
    first, second = data[a + BLOCK_BYTES :][:a_bytes], data[b + BLOCK_BYTES :][:b_bytes]
    size = -(-max(a_bytes, b_bytes) // BLOCK_BYTES) * BLOCK_BYTES
    assert -(-min(a_bytes, b_bytes) // BLOCK_BYTES) * BLOCK_BYTES == size, "the tiny generator's images changed"
    changed = bytearray(data)
    for start, name, image in ((a, "000000030.anchor.jpg", second), (b, "000000031.anchor.jpg", first)):
        changed[start : start + BLOCK_BYTES + size] = member_header(name, len(image)) + image.ljust(size, b"\0")
    return bytes(changed)


def test_a_sound_dataset(rendered: Path, tiny_weights: Path) -> None:
    result = run(rendered, tiny_weights, "--groups=10", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    same = report["sameness"]
    assert report["ok"] and same["plan_same"] and same["identical"] and same["groups"] == same["identical_groups"] == 10
    assert (same["mean"], same["p99"], same["max"], same["worst_image"]) == (0.0, 0, 0, None)
    assert report["dtype"] == "float32" and report["rendered_groups"] == 20 * report["blocks"]
    assert same["environment_difference"] is None and result.stderr == ""
    text = run(rendered, tiny_weights).stdout
    assert "is what its recipe gives" in text and "L0 plan: same; L1 bytes: identical in all 64 groups" in text
    whole = synthgen.verify_render(rendered, groups=1000, weights=tiny_weights, device="cpu")
    assert whole.sameness.groups == 70 and whole.sameness.identical, "all there are, across shards and blocks"


def test_another_dtype_is_close_and_measured(rendered: Path, tiny_weights: Path) -> None:
    report = synthgen.verify_render(rendered, groups=30, weights=tiny_weights, device="cpu", dtype="bfloat16")
    same = report.sameness
    assert same.environment_difference == "render.dtype: float32 in the folder, bfloat16 asked for"
    assert report.ok and not same.identical and same.plan_same
    assert 0 < same.mean <= same.worst_image_mean < CLOSE["jpg"] and same.mean < same.p99 <= same.max
    assert "render.dtype: float32 in the folder" in same.describe() and same.describe().endswith("close, within 4")
    strict = run(rendered, tiny_weights, "--dtype=bfloat16", "--tolerance=0.001", "--groups=5")
    assert strict.exit_code == 1 and "NOT CLOSE, beyond 0.001" in strict.stderr and strict.stderr.count("\n") == 1


@pytest.mark.parametrize("elsewhere", [(), (0,)], ids=["", "another shard from elsewhere"])
def test_other_bytes_in_the_same_environment_are_damage(
    rendered: Path, tiny_weights: Path, tmp_path: Path, elsewhere: tuple[int, ...]
) -> None:
    folder = Path(shutil.copytree(rendered, tmp_path / "d"))
    rewrite(folder, 1, swap_images)
    index = np.load(folder / "data/train-000001.index.npy")
    index[[0, 1], 2] = index[[1, 0], 2]
    np.save(folder / "data/train-000001.index.npy", index)
    set_environment(folder, shards=elsewhere, device="Abacus 3000")
    result = run(folder, tiny_weights, "--groups=70")
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert lines == [f"0000000{i}.anchor.jpg: other bytes in the same environment" for i in (30, 31)]
    assert "identical in 68 of 70 groups (in the same environment)" in result.stderr
    # Another environment excuses other bytes, but not other pictures.
    set_environment(folder, device="Abacus 3000")
    result = run(folder, tiny_weights, "--groups=70")
    assert result.exit_code == 1 and result.stdout == ""
    assert "(device: Abacus 3000 in the folder, cpu here)" in result.stderr and "NOT CLOSE" in result.stderr


def swap_labels(data: bytes) -> bytes:
    """Two groups of one shard say each other's label and class name."""
    start = data.index(b'{"class_name"')
    end = data.index(b"\0", start)
    first = json.loads(data[start:end])
    for other in range(first["index"] + 1, first["index"] + 20):
        begin = data.index(f'"index":{other},'.encode())
        begin = data.rindex(b'{"class_name"', 0, begin)
        metadata = json.loads(data[begin : data.index(b"\0", begin)])
        if len(metadata["class_name"]) == len(first["class_name"]) and metadata["label"] != first["label"]:
            changed = {**first, "label": metadata["label"], "class_name": metadata["class_name"]}
            return data[:start] + canonical_json(changed).encode() + data[end:]
    raise AssertionError("no class name of the same length")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_labels, ".json: class_name: "),
        (lambda data: data.replace(b'"std":0.3', b'"std":0.2', 1), "views.0.std: 0.2 in the folder, 0.3 by the recipe"),
        (
            lambda data: data.replace(b"\x93NUMPY\x01\x00v\x00", b"\x93NUMPY\x01\x00v\x01", 1),
            ".latents.npy: not the recipe's",
        ),
    ],
    ids=["label", "view parameter", "latents"],
)
def test_another_plan_is_damage_everywhere(
    rendered: Path, tiny_weights: Path, tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    folder = Path(shutil.copytree(rendered, tmp_path / "d"))
    rewrite(folder, 0, change)
    set_environment(folder, device="Abacus 3000")
    result = run(folder, tiny_weights, "--groups=70")
    assert result.exit_code == 1, result.output
    assert words in result.stdout and result.stdout.count("\n") == 1
    assert "L0 plan: BROKEN" in result.stderr and result.stderr.count("\n") == 1


def test_damaged_files_are_named(rendered: Path, tiny_weights: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(rendered, tmp_path / "d"))
    os.truncate(folder / "data/train-000002.tar", 5000)
    result = run(folder, tiny_weights, "--groups=70")
    assert result.exit_code == 1 and "train-000002.tar is truncated" in result.stderr
    (folder / "data/train-000002.tar").unlink()
    assert "train-000002.tar is missing" in run(folder, tiny_weights, "--groups=70").stderr


def test_mistakes_are_one_line(
    rendered: Path, tiny_weights: Path, network_maker: Callable, package_layout: Callable, tmp_path: Path
) -> None:
    other = package_layout(tmp_path / "other", network_maker(seed=1))
    for options, words in (
        (["--dtype=int4"], "'int4' is not one of 'same', 'float32', 'bfloat16'"),
        (["--groups=0"], "'0'"),
        (["--seed=-1"], "seed -1"),
        (["--tolerance=300"], "tolerance 300"),
        (["--device=abacus"], "device 'abacus'"),
        ([f"--weights={other}"], "weights_sha256: the dataset was rendered with the weights"),
    ):
        result = run(rendered, tiny_weights, *options)
        assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
    (tmp_path / "empty").mkdir()
    assert "not a dataset" in run(tmp_path / "empty", tiny_weights).stderr


def manifest_of(num_groups: int, batch_size: int) -> Manifest:
    from shards.manifest import ShardRecord, shard_name

    recipe = Recipe(source={}, classes=(), views=({},), seed=0, image={"size": 8, "format": "png"})
    render = RenderSettings(batch_size=batch_size, dtype="float32")
    shard = ShardRecord(name=shard_name(0), index=0, first=0, count=num_groups, bytes=1, sha256="0" * 64)
    return Manifest(
        recipe=recipe, render=render, num_groups=num_groups, shard_size=num_groups, shards=(shard,), class_names={}
    )


@pytest.mark.parametrize("groups", [1, 7, 64, 500])
@pytest.mark.parametrize(("num_groups", "batch_size"), [(70, 20), (1, 50), (1001, 500), (1_300_000, 500), (303, 3)])
def test_the_sample(num_groups: int, batch_size: int, groups: int) -> None:
    """Exactly so many groups, each in its own block, few blocks, another sample for another seed."""
    manifest = manifest_of(num_groups, batch_size)
    for seed in range(5):
        sample = choose_groups(manifest, groups=groups, seed=seed)
        assert sample == choose_groups(manifest, groups=groups, seed=seed)
        chosen = [index for indices in sample.values() for index in indices]
        assert len(chosen) == min(groups, num_groups) and chosen == sorted(set(chosen)) and chosen[-1] < num_groups
        assert all(index // batch_size * batch_size == first for first, found in sample.items() for index in found)
        assert len(sample) <= max(-(-groups // 8), -(-groups // batch_size)) + 1
    if num_groups > 1000:
        assert choose_groups(manifest, groups=groups, seed=0) != choose_groups(manifest, groups=groups, seed=1)


def test_how_far_a_close_image_may_be_off_is_pinned() -> None:
    assert CLOSE == {"jpg": 4.0, "png": 1.5}


def test_differences_are_those_of_numpy() -> None:
    """Mean, 99th percentile and maximum against the whole arrays at once."""
    from shards.codec import encode_image

    manifest, random = manifest_of(40, 20), np.random.default_rng(0)
    before = random.integers(0, 256, (40, 2, 8, 8, 3), np.uint8)
    after = np.clip(before + random.normal(0, 3, before.shape).round(), 0, 255).astype(np.uint8)
    after[:20] = before[:20]
    comparison = Comparison(manifest)
    for index in range(40):
        members = [[encode_image(image, manifest.recipe.image) for image in side[index]] for side in (before, after)]
        comparison.add(index, stored=[*members[0], b"{}"], again=[*members[1], b"{}"], elsewhere="another moon")
    same = comparison.result()
    differences = np.abs(before.astype(int) - after)
    assert same.mean == pytest.approx(differences.mean())
    assert same.max == differences.max()
    assert same.p99 == np.quantile(differences, 0.99, method="inverted_cdf")
    worst = differences.mean((2, 3, 4)).max()
    assert same.worst_image_mean == pytest.approx(worst) and same.identical_groups == 20 and same.plan_same


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_gives_the_same_bytes_again_and_the_cpu_close_ones(
    tiny_weights: Path, tmp_path: Path, dtype: str
) -> None:
    settings = {"weights": tiny_weights, "devices": "cuda", "dtype": dtype, "batch_size": 50, "shard_size": 120}
    synthgen.render(n=400, out=tmp_path / "d", quiet=True, **settings)
    again = synthgen.verify_render(tmp_path / "d", groups=200, weights=tiny_weights, device="cuda")
    assert again.ok and again.sameness.identical
    there = synthgen.verify_render(tmp_path / "d", groups=50, weights=tiny_weights, device="cpu")
    assert there.ok and str(there.sameness.environment_difference).startswith(("cuda: ", "device: "))
