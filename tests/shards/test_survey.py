"""What of a folder counts as done, and whom to believe where marker and manifest disagree."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from shards import (
    DamageError,
    Recipe,
    RenderSettings,
    completed_shards,
    finish_dataset,
    load_manifest,
    scan_markers,
    verify,
)
from shards.folder import restore_files
from tests.shards.samples import RENDER, Build, MakeRecipe, hashes


def completed(directory: Path, recipe: Recipe, *, render: RenderSettings = RENDER, shard_size: int = 4) -> list[int]:
    return list(completed_shards(directory, recipe=recipe, render=render, shard_size=shard_size))


def test_only_whole_shards_with_markers_count(dataset: Path, recipe: MakeRecipe) -> None:
    assert completed(dataset, recipe()) == [0, 1, 2]
    (dataset / "data/train-000000.done.json").unlink()
    os.truncate(dataset / "data/train-000001.tar", 100)
    assert completed(dataset, recipe()) == [2]
    (dataset / "data/train-000002.tar").unlink()
    assert completed(dataset, recipe()) == []
    assert list(scan_markers(dataset)) == [1, 2]


def test_a_shard_with_too_long_a_tar_or_without_its_index_is_made_again(
    dataset: Path, build: Build, recipe: MakeRecipe
) -> None:
    with open(dataset / "data/train-000000.tar", "ab") as file:
        file.write(bytes(10240))
    (dataset / "data/train-000001.index.npy").unlink()
    assert completed(dataset, recipe()) == [2]
    build(dataset, 10)
    assert verify(dataset).ok


@pytest.mark.parametrize("with_manifest", [True, False])
def test_another_recipe_is_refused_by_its_field(dataset: Path, recipe: MakeRecipe, with_manifest: bool) -> None:
    if not with_manifest:
        (dataset / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"seed: 0 in the folder, 7 asked for"):
        completed(dataset, recipe(seed=7))
    with pytest.raises(ValueError, match=r"render.batch_size: 4 in the folder, 8 asked for"):
        completed(dataset, recipe(), render=RenderSettings(batch_size=8, dtype="float32"))
    with pytest.raises(ValueError, match=r"shard_size: 4 in the folder, 5 asked for"):
        completed(dataset, recipe(), shard_size=5)
    with pytest.raises(ValueError, match=r"shard_size: 4 in the folder, 2 asked for"):
        completed(dataset, recipe(), shard_size=2)


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path, build: Build, recipe: MakeRecipe) -> None:
    """Removed or renamed while it was written to: what would come up in its place is no dataset."""
    build(tmp_path / "d", 4)
    (tmp_path / "d").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"/d is gone: it was removed or renamed while it was written to"):
        sys.modules[build.__module__].write_shard(tmp_path / "d", recipe(), 1, 4, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_broken_marker_is_damage_with_a_repair(dataset: Path, recipe: MakeRecipe) -> None:
    (dataset / "data/train-000001.done.json").write_text("{")
    with pytest.raises(DamageError, match="delete this file"):
        completed(dataset, recipe())
    shutil.copy(dataset / "data/train-000000.done.json", dataset / "data/train-000001.done.json")
    with pytest.raises(DamageError, match=r"train-000001\.done\.json: it is shard 0's marker; delete this file"):
        completed(dataset, recipe())


def alter_marker(dataset: Path, index: int, **fields: Any) -> Path:
    path = dataset / f"data/train-00000{index}.done.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return path


@pytest.mark.parametrize("fields", [{"sha256": "0" * 64}, {"count": 3}, {"class_names": {"3": "cow", "5": "dog"}}])
def test_a_marker_that_the_manifest_gives_the_lie_to_does_not_reach_it(
    dataset: Path, build: Build, recipe: MakeRecipe, fields: dict[str, Any]
) -> None:
    before = hashes(dataset)
    path = alter_marker(dataset, 1, **fields)
    message = rf"{path} was altered.* rm {dataset}/data/train-000001\.\* and run the same synthgen render again"
    for step in (
        lambda: completed(dataset, recipe()),
        lambda: finish_dataset(dataset, num_groups=10, shard_size=4),
        lambda: restore_files(dataset),
        lambda: build(dataset, 14),
    ):
        with pytest.raises(DamageError, match=message):
            step()
    assert hashes(dataset) == before
    for file in dataset.glob("data/train-000001.*"):
        file.unlink()
    build(dataset, 10)
    assert hashes(dataset) == before


def test_a_shard_that_was_lost_may_come_back_with_other_bytes(
    dataset: Path, build: Build, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another device gives them: whoever is killed between the shard and the manifest goes on, too."""
    for file in dataset.glob("data/train-000001.*"):
        file.unlink()
    module = sys.modules[build.__module__]
    draw = module.draw_pixels
    monkeypatch.setattr(module, "draw_pixels", lambda index, image, size: 255 - draw(index, image, size))
    module.write_shard(dataset, recipe(), 1, 4, 4)
    assert completed(dataset, recipe()) == [0, 1, 2]
    old = load_manifest(dataset).shards[1]
    assert build(dataset, 10).shards[1].sha256 != old.sha256 and verify(dataset).ok


def test_a_shard_that_is_replaced_while_its_tar_is_read_is_no_damage(
    dataset: Path, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old marker, which the tar contradicts, goes first."""
    path, file_digest = alter_marker(dataset, 0, sha256="0" * 64), hashlib.file_digest

    def replace_meanwhile(*arguments: Any) -> Any:
        path.unlink(missing_ok=True)
        return file_digest(*arguments)

    monkeypatch.setattr(hashlib, "file_digest", replace_meanwhile)
    assert completed(dataset, recipe()) == [0, 1, 2]


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize(
    ("index", "fields", "difference"),
    [
        (0, {"first": 1}, "first: 1 in the folder, 0 asked for"),
        (1, {"first": 5}, "shard_size: 5 in the folder, 4 asked for"),
        (2, {"first": 9}, "first: 9 in the folder, 8 asked for"),
        (1, {"count": 9}, "shard_size: 9 in the folder, 4 asked for"),
        (1, None, "seed: 1 in the folder, 0 asked for"),
    ],
)
def test_one_marker_astray_is_named_and_not_taken_for_another_dataset(
    dataset: Path,
    tmp_path: Path,
    build: Build,
    recipe: MakeRecipe,
    with_manifest: bool,
    index: int,
    fields: dict[str, Any] | None,
    difference: str,
) -> None:
    if not with_manifest:
        (dataset / "manifest.json").unlink()
    if fields is None:
        build(tmp_path / "other", 10, recipe=recipe(seed=1))
        for file in (tmp_path / "other/data").glob(f"train-00000{index}.*"):
            shutil.copy(file, dataset / "data")
    path = alter_marker(dataset, index, **(fields or {}))
    with pytest.raises(DamageError) as raised:
        completed(dataset, recipe())
    assert str(raised.value).startswith(f"{path} is damaged or of another dataset: {difference}, ")
    assert str(raised.value).endswith(
        f"; rm {dataset}/data/train-00000{index}.* and run the same synthgen render again"
    )
