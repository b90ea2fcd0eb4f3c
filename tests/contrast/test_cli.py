"""The command: its options, its one-line errors, and a whole pass from groups to a page."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import contrast
from contrast.cli import main
from contrast.config import TrainConfig


def options_of(command: click.Command) -> list[str]:
    return [max(parameter.opts, key=len) for parameter in command.params if isinstance(parameter, click.Option)]


def test_options_are_a_decision() -> None:
    assert {name: options_of(command) for name, command in main.commands.items()} == {
        "train": [
            "--shards", "--out", "--n", "--reader", "--cache", "--cache-bytes", "--beton", "--objective", "--positives",
            "--mix", "--augment", "--encoder", "--samples", "--steps", "--epochs", "--batch-size", "--accumulate",
            "--optimizer", "--learning-rate", "--warmup", "--weight-decay", "--sync-batchnorm", "--temperature",
            "--head-hidden-dim", "--head-dim", "--seed",
            "--precision", "--device", "--threads", "--workers", "--checkpoint-seconds", "--compile", "--tensorboard",
            "--knn-every", "--knn-data", "--knn-data-root", "--json",
        ],
        "eval": [
            "--run", "--data", "--data-train", "--data-root", "--num-train", "--groups", "--scores", "--k",
            "--controls", "--device", "--threads", "--json",
        ],
        "data": [],
        "report": ["--run", "--out", "--sheet"],
        "compare": ["--average", "--over", "--out", "--json"],
        "export": ["--format", "--out", "--json"],
    }  # fmt: skip


def test_defaults_are_those_of_the_configuration() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    shown = {parameter.name: parameter.default for parameter in main.commands["train"].params}
    for name in ("objective", "encoder", "optimizer", "temperature", "seed"):
        assert shown[name] == defaults[name], name
    assert int(shown["batch_size"]) == defaults["batch_size"]


@pytest.mark.parametrize("arguments", [[], ["train"], ["eval"], ["data", "cifar10"], ["report"], ["export"]])
def test_help_shows_examples(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0
    assert re.search(r"Examples:\n\s+contrast ", result.output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "5", "--n", "1.3Q"], "'1.3Q' is not a count"),
        (["--steps", "0"], "out of range"),
        (["--steps", "5", "--n", "5000"], "holds 96 groups"),
        (["--steps", "5", "--epochs", "2"], "exactly one of --samples, --steps and --epochs (given: steps, epochs)"),
        ([], "exactly one of --samples, --steps and --epochs (given: none)"),
        (
            ["--steps", "5", "--objective", "magic"],
            "'magic' is not one of 'simclr', 'multi-positive', 'supcon', 'vicreg'",
        ),
        (["--steps", "5", "--encoder", "vgg"], "unknown encoder 'vgg'"),
        (["--steps", "5", "--encoder", "torchvision:alexnet"], "alexnet does not take images of 16 px"),
        (["--steps", "5", "--positives", "tw"], "'tw' is not one of 'both', 'tx', 'tz', 'shuffled'"),
        (["--steps", "5", "--objective", "inverter"], "render with --store-latents"),
        (["--steps", "5", "--mix", "photos:0.5"], "write real=DIR:SHARE"),
        (["--steps", "5", "--mix", "real=nowhere:0.5"], "no folder nowhere"),
        (["--steps", "5", "--accumulate", "3"], "accumulate 3: a batch of 16 groups does not divide"),
        (["--steps", "5", "--threads", "100000"], "threads 100000: this machine has "),
        (["--steps", "5", "--augment", "blurr=1"], "unknown 'blurr'; write WORD=VALUE with crop, "),
        (["--steps", "5", "--augment", "crop=0.2"], "crop takes two numbers: crop=0.2:1"),
        (["--steps", "5", "--augment", "blur=1,blur=0"], "blur is given twice"),
        (["--steps", "5", "--augment", "blur=2"], "--augment blur=2: blur 2.0: give a number from 0 to 1, such as"),
        (["--steps", "5", "--device", "cuda:9"], "no device cuda:9 here"),
        (["--steps", "5", "--temperature", "0"], "temperature 0.0: give a number above 0"),
        (["--steps", "5", "--learning-rate", "-1"], "learning-rate -1.0: give a number above 0"),
        (["--steps", "5", "--seed", "-1"], "seed -1: give a whole number from 0 on"),
        (["--steps", "5", "--seed", "99999999999999999999999"], "give a whole number from 0 on, below 2^63"),
        (["--steps", "5", "--checkpoint-seconds", "nan"], "checkpoint-seconds nan: give a number from 0 on"),
        (["--epochs", "0.001"], "shorter than one step"),
        (["--epochs", "0"], "epochs 0.0: give a number above 0"),
        (["--epochs", "1e400"], "epochs inf: give a number above 0"),
        (["--epochs", "nan"], "epochs nan: give a number above 0"),
        (["--steps", "5", "--batch-size", "1k"], "batch size 1000 is larger than the 96 groups"),
        (["--steps", "5", "--flavour", "x"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    groups: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    batch_size = [] if "--batch-size" in arguments else ["--batch-size", "16"]
    options = ["--shards", str(groups), "--out", str(tmp_path / "run"), *batch_size, *arguments]
    result = CliRunner().invoke(main, ["train", *options])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_damage_is_exit_code_1(groups: Path, tmp_path: Path) -> None:
    command = ["--shards", str(groups), "--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "16"]
    assert CliRunner().invoke(main, ["train", *command, "--device", "cpu"]).exit_code == 0
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"")
    result = CliRunner().invoke(main, ["eval", "--run", str(tmp_path / "run"), "--data", str(groups)])
    assert result.exit_code == 1
    assert "checkpoint.pt is damaged" in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to score on: give --data"),
        (["--data", "cifar10", "--scores", "knn,,linear"], "write names with commas between them"),
        (["--data", "cifar10", "--k", "1,0"], "'0' is out of range"),
        (["--data", "cifar10", "--scores", "accuracy"], "unknown score 'accuracy': choose among knn"),
    ],
)
def test_wrong_scores_are_one_line_with_the_fix(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["eval", "--run", str(tmp_path), *arguments])
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_an_unwritable_place_is_named(groups: Path) -> None:
    command = ["train", "--shards", str(groups), "--out", "/proc/run", "--steps", "2", "--batch-size", "16"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: /proc/run") and len(result.stderr.strip().splitlines()) == 1


def test_from_groups_to_a_page(groups: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    runner = CliRunner()
    train = ["train", "--shards", str(groups), "--out", str(run), "--n", "72", "--epochs", "2", "--batch-size", "24"]
    result = runner.invoke(main, [*train, "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["steps"], summary["steps_now"]) == (6, 6)
    assert {"loss", "chance_loss", "views_per_second", "wait_share", "seconds"} <= summary.keys()
    again = runner.invoke(main, [*train, "--device", "cpu"])
    assert again.exit_code == 0 and "is finished" in again.stderr

    result = runner.invoke(main, ["eval", "--run", str(run), "--data", str(groups), "--k", "5", "--json"])
    assert result.exit_code == 0, result.stderr
    evaluation = json.loads(result.stdout)
    assert evaluation == json.loads((run / "evaluate.json").read_text())
    (test,) = evaluation["tests"]
    assert list(test["scores"]) == ["pixels", "random", "trained"]
    assert all({"knn", "linear"} <= score.keys() for score in test["scores"].values())
    assert test["k"] == 5 and test["num_test"] == 19

    scores = ["--scores", "rankme,knn", "--k", "1,10", "--no-controls", "--data", str(groups), "--data", str(groups)]
    result = runner.invoke(main, ["eval", "--run", str(run), *scores])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("kNN 1  kNN 10  RankMe") == 2 and "untrained encoder" not in result.stdout

    result = runner.invoke(main, ["report", "--run", str(run), "--out", str(tmp_path / "pages" / "report.html")])
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "pages" / "report.html").exists()


def test_counts_from_python_may_be_text(groups: Path, tmp_path: Path) -> None:
    sizes = {"shards": groups, "out": tmp_path / "run", "device": "cpu", "quiet": True}
    summary = contrast.train(**sizes, n="0.064k", samples="64", batch_size="32")
    assert summary.steps == 2
    evaluation = contrast.eval(run=tmp_path / "run", data=str(groups), num_train="0.04k", device="cpu", quiet=True)
    assert evaluation.tests[0].num_train == 40
    with pytest.raises(ValueError, match="n: '2q' is not a count: write a whole number above 0"):
        contrast.train(**sizes, n="2q", steps=1)
    with pytest.raises(ValueError, match="steps 0: give a whole number from 1 on"):
        contrast.train(**sizes, steps=0, batch_size=32)
    with pytest.raises(ValueError, match=r"num-train 1\.5: give a whole number from 1 on"):
        contrast.eval(run=tmp_path / "run", data=str(groups), num_train=1.5, device="cpu")  # type: ignore[arg-type]


def test_the_same_from_python(groups: Path, tmp_path: Path) -> None:
    summary = contrast.train(
        shards=groups, out=tmp_path / "run", n=48, steps=2, batch_size=16, objective="supcon", device="cpu", quiet=True
    )
    assert summary.steps == 2
    evaluation = contrast.eval(run=tmp_path / "run", data=str(groups), device="cpu", quiet=True)
    assert set(evaluation.tests[0].scores) == {"pixels", "random", "trained"}
    page = contrast.report(run=tmp_path / "run", out=tmp_path / "report.html")
    assert page.read_text().startswith("<!doctype html>")
