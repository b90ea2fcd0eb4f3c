"""The campaign of kills, at a size for every day; its own checks can fail."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import kill_campaign
import pytest
import suspicious_reader
from click.testing import CliRunner
from tiny_generator import write_tiny_generator

import synthgen
from shards.manifest import MANIFEST_NAME


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 10 groups, and beside them, in `small`, the first two; not to be written to."""
    folder = tmp_path_factory.mktemp("campaign")
    weights = write_tiny_generator(folder / "weights")
    for name, n in (("whole", 40), ("small", 20)):
        synthgen.render(n=n, out=folder / name, devices="cpu", quiet=True, **kill_campaign.settings(weights, 10))
    return folder / "whole"


def test_killed_renders_end_with_the_same_bytes(tmp_path: Path) -> None:
    options = ["--trials", "2", "--n", "60", "--prefix", "20", "--shard-size", "10", "--work", str(tmp_path)]
    result = CliRunner().invoke(kill_campaign.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "2 of 2 trials identical to the undisturbed render\n  time 1 of 1, touch 1 of 1\n" in result.stdout
    looks = re.search(r"the reader saw 0 wrong things in (\d+) looks", result.stdout)
    assert looks is not None and int(looks[1]) > 0
    assert "the first 20 groups: identical" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_whole_after_a_kill_is_noticed(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "d"))
    manifests = [(whole / MANIFEST_NAME).read_bytes()]
    assert kill_campaign.check_between(copy, whole, manifests) == "after the manifest"
    assert kill_campaign.is_identical(copy, whole)
    with pytest.raises(AssertionError, match="a manifest after a kill"):
        kill_campaign.check_between(copy, whole, [b"another"])
    (copy / MANIFEST_NAME).unlink()
    assert kill_campaign.check_between(copy, whole, manifests) == "before the manifest"
    (copy / "data/train-000003.done.json").unlink()
    assert kill_campaign.check_between(copy, whole, manifests) == "tar there, marker not yet"
    assert not kill_campaign.is_identical(copy, whole)
    tar = copy / "data/train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(AssertionError, match="not what its marker says"):
        kill_campaign.check_between(copy, whole, manifests)
    before, after = kill_campaign.digests(whole), kill_campaign.digests(copy)
    assert {name for name in before if before[name] != after[name]} == {"train-000001.tar"}
    assert list(kill_campaign.digests(copy, num_shards=1)) == ["train-000000.index.npy", "train-000000.tar"]


def test_the_reader_believes_nothing(whole: Path, tmp_path: Path) -> None:
    small = whole.with_name("small")
    reader = suspicious_reader.SuspiciousReader(
        whole, [(folder / MANIFEST_NAME).read_bytes() for folder in (whole, small)]
    )
    assert [reader.look(folder) for folder in (whole, small, tmp_path / "none")] == ["a dataset"] * 2 + ["nothing yet"]
    copy = Path(shutil.copytree(whole, tmp_path / "d"))
    (copy / MANIFEST_NAME).unlink()
    assert reader.look(copy) == "unfinished"
    (copy / MANIFEST_NAME).write_bytes((whole / MANIFEST_NAME).read_bytes() + b" ")
    with pytest.raises(AssertionError, match="a wrong manifest"):
        reader.look(copy)
    tar = copy / "data/train-000002.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(AssertionError, match=r"train-000002.tar is half"):
        reader.look(copy)


def test_a_prefix_of_no_whole_shards_is_refused() -> None:
    result = CliRunner().invoke(kill_campaign.main, ["--n", "120", "--prefix", "30", "--shard-size", "20"])
    assert result.exit_code == 2
    assert "--prefix 30" in result.stderr
