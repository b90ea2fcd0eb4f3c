"""Strangers' readers read our folders unaided."""

from __future__ import annotations

import json
import subprocess
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards import GroupDataset, Manifest, Recipe, load_manifest
from shards.card import card_text, nested_sizes

Build = Callable[..., Manifest]


def test_tar_lists_the_members_in_order(shared_dataset: Path) -> None:
    command = ["tar", "tf", str(shared_dataset / "data/train-000001.tar")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert listed == [f"{i:09d}.{member}" for i in range(4, 8) for member in ("anchor.jpg", "view0.jpg", "json")]


def test_tarfile_finds_plain_files_of_nobody(shared_dataset: Path) -> None:
    dataset = GroupDataset(shared_dataset)
    with tarfile.open(shared_dataset / "data/train-000000.tar") as tar:
        members = tar.getmembers()
        for member in members:
            assert (member.mode, member.mtime, member.uid, member.gid, member.uname, member.gname) == (
                0o644,
                0,
                0,
                0,
                "",
                "",
            )
            file = tar.extractfile(member)
            assert file is not None
            key, _, name = member.name.partition(".")
            assert file.read() == bytes(dataset.read(int(key), name))
    assert len(members) == 12


def test_sha256sum_checks_everything(shared_dataset: Path) -> None:
    command = ["sha256sum", "--strict", "-c", "SHA256SUMS"]
    result = subprocess.run(command, cwd=shared_dataset, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [*(f"data/train-00000{i}.tar: OK" for i in range(3)), "manifest.json: OK"]


# webdataset leaves its files to the garbage collector, and imports torch, whose code uses what newer Pythons deprecate.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_plain_webdataset_reads_every_group(shared_dataset: Path) -> None:
    import webdataset

    urls = f"{shared_dataset}/data/train-{{000000..000002}}.tar"
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    dataset = GroupDataset(shared_dataset)
    assert [int(sample["__key__"]) for sample in samples] == list(range(10))
    for index, sample in enumerate(samples):
        assert sample["json"] == dataset.metadata(index)
        assert sorted(sample["json"]) == ["class_name", "index", "label", "views"]
        assert np.abs(sample["anchor.jpg"].astype(int) - dataset.images(index)[0]).max() <= 2  # another JPEG decoder


@pytest.mark.parametrize(("config", "count"), [(None, 2500), ("n1k", 1000)])
def test_hugging_face_datasets_reads_it_and_its_nested_subset(
    big_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str | None, count: int
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's imports
        import datasets

    loaded = datasets.load_dataset(str(big_dataset), name=config, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == count
    ours = GroupDataset(big_dataset)
    row = loaded[count - 1]
    assert row["__key__"] == f"{count - 1:09d}" and row["json"] == ours.metadata(count - 1)
    assert np.abs(np.asarray(row["view0.jpg"]).astype(int) - ours.images(count - 1)[1]).max() <= 2


@pytest.fixture(scope="module")
def big_dataset(tmp_path_factory: pytest.TempPathFactory, build: Build) -> Path:
    directory = tmp_path_factory.mktemp("big") / "dataset"
    build(directory, 2500, shard_size=500)
    return directory


def test_the_card_has_a_config_per_power_of_ten_on_a_shard_boundary(big_dataset: Path) -> None:
    manifest = load_manifest(big_dataset)
    assert nested_sizes(manifest) == [1000]
    head = (big_dataset / "README.md").read_text().split("---\n")[1]
    assert head.splitlines() == [
        "tags:",
        "- synthetic",
        "- webdataset",
        "- contrastive-learning",
        "size_categories:",
        "- 1K<n<10K",
        "configs:",
        "- config_name: default",
        "  default: true",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.tar",
        "- config_name: n1k",
        "  data_files:",
        "  - split: train",
        "    path:",
        "    - data/train-000000.tar",
        "    - data/train-000001.tar",
    ]


def test_a_subset_that_would_cut_a_shard_is_left_out(tmp_path: Path, build: Build) -> None:
    assert nested_sizes(build(tmp_path / "d", 1200, shard_size=300)) == []


def test_the_card_names_recipe_and_members(shared_dataset: Path, recipe: Callable[..., Recipe]) -> None:
    manifest = load_manifest(shared_dataset)
    text = card_text(manifest)
    assert text == (shared_dataset / "README.md").read_text()
    assert recipe().id in text and "000000042.view0.jpg" in text and "sha256sum -c SHA256SUMS" in text


def test_timm_info(shared_dataset: Path) -> None:
    split = json.loads((shared_dataset / "_info.json").read_text())["splits"]["train"]
    assert split == {
        "name": "train",
        "num_samples": 10,
        "filenames": [f"data/train-00000{i}.tar" for i in range(3)],
        "shard_lengths": [4, 4, 2],
        "alt_label": "label",
    }
