"""Training from an object store, end to end: the same weights as from the folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from contrast.cli import main
from contrast.readers import open_batches
from shards import RemoteDataset
from tests.file_server import serve_files
from tests.object_store import serve_bucket

# The server's and the client's own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
OPTIONS = ["--steps", "4", "--batch-size", "16", "--precision", "float32", "--device", "cpu", "--threads", "1"]


def test_training_from_a_bucket_gives_the_weights_of_training_from_the_folder(
    groups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(shards: str, run: str, *more: str) -> None:
        command = ["train", "--shards", shards, "--out", str(tmp_path / run), *OPTIONS, *more]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output

    train(str(groups), "here", "--reader", "webdataset")
    with serve_bucket(monkeypatch, groups, bucket="renders") as address:
        train(address, "there", "--cache", str(tmp_path / "cache"))
        result = CliRunner().invoke(
            main, ["train", "--shards", address, "--out", str(tmp_path / "x"), *OPTIONS, "--reader", "tar"]
        )
        assert result.exit_code == 2 and "use --reader webdataset" in result.stderr
        small = ["--cache-bytes", "60k", "--cache", str(tmp_path / "small")]
        result = CliRunner().invoke(
            main, ["train", "--shards", address, "--out", str(tmp_path / "x"), *OPTIONS, *small]
        )
        assert result.exit_code == 2 and "give" in result.stderr and "--cache-bytes" in result.stderr, result.output
    here, there = (
        torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)["encoder"] for run in ("here", "there")
    )
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 3
    result = CliRunner().invoke(main, ["train", "--shards", str(groups), "--out", str(tmp_path / "here"), *OPTIONS])
    assert result.exit_code == 2 and "order: streamed in the folder, shuffled asked for" in result.stderr


def test_who_leaves_in_mid_epoch_can_come_back(groups: Path, tmp_path: Path) -> None:
    with serve_files(groups) as server:
        dataset = RemoteDataset(server.address, cache=tmp_path)
        batches = open_batches(dataset, reader="webdataset", batch_size=16, seed=0)
        first = [batch.indices.tolist() for batch in batches.steps(0, 4)]
        with closing(batches.steps(0, 4)) as steps:
            assert next(steps).indices.tolist() == first[0]
        assert [batch.indices.tolist() for batch in batches.steps(2, 4)] == first[2:]
        assert len(dataset.batch(range(96))[1]) == 96
