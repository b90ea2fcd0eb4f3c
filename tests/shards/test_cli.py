"""The command `shards`: its options, its exit codes, its JSON, and what people read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from shards import Manifest, Recipe, lock_dataset, preview
from shards.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_options_are_these() -> None:
    """A literal list, so that growth is a decision."""
    found = {
        name: [parameter.opts[0] for parameter in command.params] for name, command in sorted(main.commands.items())
    }
    assert found == {
        "from-images": [
            "source", "--out", "--n", "--split", "--size", "--format", "--quality", "--shard-size", "--seed", "--json",
        ],
        "info": ["directory", "--json"],
        "preview": ["directory", "--out", "--groups", "--first", "--scale", "--json"],
        "to-ffcv": ["directory", "--out", "--n", "--mode", "--json"],
        "verify": ["directory", "--fast", "--jobs", "--json"],
    }  # fmt: skip
    assert all(isinstance(command, click.Command) and command.help for command in main.commands.values())


def test_version_and_short_help() -> None:
    assert run("--version").stdout.startswith("shards, version ")
    assert run("-h").stdout == run("--help").stdout != ""


# ---------------------------------------------------------------------------------------------------------------------
# info


def test_info_of_a_finished_dataset(shared_dataset: Path, recipe: Callable[..., Recipe]) -> None:
    result = run("info", shared_dataset)
    assert result.exit_code == 0
    lines = dict(line.strip().split("  ", 1) for line in result.stdout.splitlines()[2:])
    rows = {name: value.strip() for name, value in lines.items()}
    assert rows["state"] == "complete" and rows["groups"] == "10" and rows["images"] == "20 (2 a group)"
    assert rows["source truncation"] == "1.0" and rows["view 0"] == "policy gaussian, std 0.3"
    assert rows["recipe id"] == recipe().id

    data = json.loads(run("info", shared_dataset, "--json").stdout)
    assert (data["complete"], data["groups"], data["images"], data["num_classes"]) == (True, 10, 20, 3)
    assert data["recipe"] == recipe().to_json() and data["recipe_id"] == recipe().id


def test_info_of_an_unfinished_dataset(
    tmp_path: Path, build_shard: Callable[..., None], recipe: Callable[..., Recipe]
) -> None:
    with lock_dataset(tmp_path / "d"):
        result = run("info", tmp_path / "d")
        assert result.exit_code == 2 and "no shard is done yet" in result.stderr
        build_shard(tmp_path / "d", recipe(), 0, 0, 4)
        build_shard(tmp_path / "d", recipe(), 2, 8, 4)
        assert f"2 shards are done; a job is writing it (pid {os.getpid()}" in run("info", tmp_path / "d").stdout
    assert "run the same synthgen render again" in run("info", tmp_path / "d").stdout
    data = json.loads(run("info", tmp_path / "d", "--json").stdout)
    assert (data["complete"], data["groups"], data["shards"], data["shard_size"]) == (False, 8, 2, 4)


def test_info_of_a_growing_dataset(
    dataset: Path, build_shard: Callable[..., None], recipe: Callable[..., Recipe]
) -> None:
    build_shard(dataset, recipe(), 3, 12, 4)
    assert "complete, and growing: 4 groups more; run" in run("info", dataset).stdout


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "data/train-000001.tar").unlink(),
        lambda d: (d / "data/train-000001.done.json").unlink(),
        lambda d: os.truncate(d / "data/train-000001.tar", 5000),
    ],
    ids=["no tar", "no marker", "short tar"],
)
def test_info_of_a_damaged_dataset(dataset: Path, damage: Callable[[Path], object]) -> None:
    damage(dataset)
    text = run("info", dataset).stdout
    assert f"damaged: 1 of 3 shards missing or changed; run shards verify {dataset}\n" in text
    data = json.loads(run("info", dataset, "--json").stdout)
    assert (data["complete"], data["damaged_shards"]) == (False, 1)


@pytest.mark.parametrize("command", [["info"], ["verify"], ["preview", "--out", "sheet.png"]])
def test_what_is_no_dataset_is_the_users_mistake(tmp_path: Path, command: list[str]) -> None:
    for directory, message in ((tmp_path, "not a dataset"), (tmp_path / "nowhere", "no folder")):
        result = run(command[0], directory, *command[1:])
        assert result.exit_code == 2 and message in result.stderr
        assert result.stdout == "" and result.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------------
# verify


def test_verify_exit_codes_and_lines(dataset: Path) -> None:
    assert run("verify", dataset).exit_code == 0
    assert "all 20 images decode, all checksums agree" in run("verify", dataset).stdout
    assert "sizes and markers agree" in run("verify", dataset, "--fast").stdout
    os.truncate(dataset / "data/train-000001.tar", 5000)
    result = run("verify", dataset)
    assert result.exit_code == 1 and "data/train-000001.tar has 5000 bytes" in result.stdout
    assert result.stderr.splitlines()[-1].startswith(f"Error: {dataset} is damaged: ")
    assert run("verify", dataset, "--jobs", "0").exit_code == 2


def test_checksums_that_are_no_text_are_damage(dataset: Path) -> None:
    (dataset / "SHA256SUMS").write_bytes(b"\xff\xfe\x00")
    result = run("verify", dataset)
    assert result.exit_code == 1 and result.stdout.startswith("SHA256SUMS is not a text file; ")


def test_one_shard_is_one_shard(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    build(tmp_path / "d", 4)
    assert "4 groups in 1 shard (" in run("verify", tmp_path / "d").stdout
    assert "in 1 shard of 4 groups\n" in run("info", tmp_path / "d").stdout
    card = (tmp_path / "d/README.md").read_text()
    assert "in 1 shard |" in card and "Hugging Face `datasets`:\n" in card
    build(tmp_path / "e", 1000, shard_size=500)
    card = (tmp_path / "e/README.md").read_text()
    assert "in 2 shards of 500 groups |" in card and "`datasets`, with subsets by name (`n1k`):\n" in card


def test_verify_json(dataset: Path) -> None:
    assert json.loads(run("verify", dataset, "--json").stdout)["ok"] is True
    (dataset / "data/train-000001.tar").unlink()
    result = run("verify", dataset, "--json", "--fast")
    data = json.loads(result.stdout)
    assert result.exit_code == 1 and data["ok"] is False and data["fast"] is True and len(data["problems"]) == 1


def test_long_lists_of_problems_are_cut(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    build(tmp_path / "d", 50, shard_size=1)
    for path in (tmp_path / "d/data").glob("*.tar"):
        path.unlink()
    lines = run("verify", tmp_path / "d").stdout.splitlines()
    assert len(lines) == 41 and lines[-1] == "and 10 more (--json lists all)"


def test_an_altered_manifest_is_damage(dataset: Path) -> None:
    (dataset / "manifest.json").write_text("{}")
    assert run("verify", dataset).exit_code == run("info", dataset).exit_code == 1


# ---------------------------------------------------------------------------------------------------------------------
# preview


def test_preview_shows_every_image_of_every_group(dataset: Path, tmp_path: Path) -> None:
    result = run("preview", dataset, "--out", tmp_path / "sheet.png", "--groups", "3", "--first", "5", "--scale", "2")
    assert result.exit_code == 0 and result.stdout == f"wrote {tmp_path / 'sheet.png'}\n"
    from shards import GroupDataset

    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = sheet.convert("RGB")
    opened = GroupDataset(dataset)
    for index in (5, 6, 7):
        for image in opened.images(index):
            patch = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC).tobytes()
            assert patch[:48] in pixels.tobytes(), index


def test_preview_json_and_prefix(shared_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = run("preview", shared_dataset, "--out", out, "--groups", "50", "--json")
    assert json.loads(result.stdout) == {"out": str(out), "first": 0, "groups": 10}
    assert preview(shared_dataset, out=tmp_path / "again.png", groups=10).read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "sheet.jpg"], "ends in .png"),
        (["--out", "nowhere/sheet.png"], "there is no folder"),
        (["--out", "sheet.png", "--first", "10"], "holds groups 0 to 9"),
        (["--out", "sheet.png", "--scale", "9999"], "fewer --groups"),
        (["--out", "sheet.png", "--groups", "0"], "out of range"),
    ],
)
def test_preview_mistakes(shared_dataset: Path, options: list[str], message: str) -> None:
    result = run("preview", shared_dataset, *options)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
