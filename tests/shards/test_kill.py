"""A writer that is SIGKILLed, at every moment that matters, leaves nothing that a reader or a resumed job mistakes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shards import GroupDataset, Manifest, Recipe, RenderSettings, completed_shards, scan_markers, verify

RENDER = RenderSettings(batch_size=4, dtype="float32")

Build = Callable[..., Manifest]


def tars(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.glob("data/train-*.tar")}


def test_killed_before_every_touch_of_the_disk(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "six", 6)
    build(tmp_path / "ten", 10)
    six, ten = tars(tmp_path / "six"), tars(tmp_path / "ten")

    script = Path(__file__).with_name("killed_writer.py")
    result = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    died = int(result.stdout)
    assert died > 40

    seen = set()
    for moment in range(1, died + 1):
        directory = tmp_path / str(moment)
        if directory.exists():
            found = tars(directory)
            assert all(found[name] in (six.get(name), ten[name]) for name in found), moment
            for index, marker in scan_markers(directory).items():
                assert found[f"train-{index:06d}.tar"] == marker.sha256, moment
        try:
            dataset = GroupDataset(directory)
        except ValueError as error:
            seen.add("none")
            assert "no manifest.json" in str(error) or "no folder" in str(error)
        else:
            seen.add(len(dataset))
            images, labels = dataset.batch(range(len(dataset)))
            reference = GroupDataset(tmp_path / "ten").batch(range(len(dataset)))
            assert (images == reference[0]).all() and (labels == reference[1]).all(), moment
        build(directory, 10)
        assert tars(directory) == ten, moment
        assert not list(directory.rglob("*.tmp")), moment
        assert verify(directory).ok, moment
    assert seen == {"none", 6, 10}


@pytest.mark.parametrize("groups_written", [1, 700])
def test_killed_from_outside_in_the_middle_of_a_shard(
    tmp_path: Path, build: Build, recipe: Callable[..., Recipe], groups_written: int
) -> None:
    script = """
import json
import sys
from pathlib import Path
from shards import Recipe, RenderSettings, ShardWriter, lock_dataset

recipe = Recipe.from_json(json.loads(sys.argv[2]))
render = RenderSettings(batch_size=4, dtype="float32")
folder = Path(sys.argv[1])
with lock_dataset(folder), ShardWriter(
    folder, recipe=recipe, render=render, shard_index=0, first=0, count=10**6, class_names={3: "cat"}
) as writer:
    while True:
        writer.add(label=3, images=[bytes(3000), bytes(3000)], views=list(recipe.views))
        print("written", flush=True)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "d"), json.dumps(recipe().to_json())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(groups_written):
            assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = [path.name for path in (tmp_path / "d/data").iterdir()]
    assert len(left) == 1 and left[0].startswith(".train-000000.tar.") and left[0].endswith(".tmp")
    assert completed_shards(tmp_path / "d", recipe=recipe(), render=RENDER, shard_size=4) == {}
    with pytest.raises(ValueError, match="it was not finished; run the same synthgen render"):
        GroupDataset(tmp_path / "d")
    build(tmp_path / "d", 6)
    assert verify(tmp_path / "d").ok and not list((tmp_path / "d").rglob("*.tmp"))
