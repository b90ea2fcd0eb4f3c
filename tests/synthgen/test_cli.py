"""The command line: its options as a list, so that growth is a decision, and what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import synthgen
from synthgen.adapters import weight_files
from synthgen.cli import main, render
from synthgen.config import RenderConfig

RENDER_OPTIONS = [
    "--n",
    "--out",
    "--from",
    "--generator",
    "--weights",
    "--classes",
    "--class-weights",
    "--truncation",
    "--seed",
    "--views",
    "--std",
    "--radius",
    "--degrees",
    "--strength",
    "--edits",
    "--walks",
    "--directions",
    "--num-views",
    "--size",
    "--format",
    "--quality",
    "--store-latents",
    "--shard-size",
    "--devices",
    "--dtype",
    "--batch-size",
    "--compile",
    "--task-index",
    "--task-count",
    "--runner",
    "--tasks",
    "--slurm",
    "--dry-run",
    "--quiet",
]


MODEL_OPTIONS = ["--generator", "--weights", "--truncation", "--seed", "--device"]
OTHER_OPTIONS = {
    "directions": ["--out", "--method", "--k", "--layer", "--samples", "--quiet", *MODEL_OPTIONS],
    "steer train": ["--out", "--edit", "--steps", "--quiet", *MODEL_OPTIONS],
    "steer show": ["--out", "--walks", "--edits", "--samples", "--strength", "--pixels", "--classes", *MODEL_OPTIONS],
    "views show": [
        *("--out", "--policy", "--std", "--radius", "--degrees", "--strength", "--edits", "--walks", "--directions"),
        *("--samples", "--classes", *MODEL_OPTIONS),
    ],
}


def test_the_options_are_these() -> None:
    assert sorted(main.commands) == [
        *("directions", "generators", "render", "status", "steer", "verify-render", "views")
    ]
    assert [option for param in render.params for option in param.opts] == RENDER_OPTIONS
    for path, expected in OTHER_OPTIONS.items():
        command: click.Command = main
        for name in path.split():
            assert isinstance(command, click.Group)
            command = command.commands[name]
        assert [option for param in command.params for option in param.opts] == expected, path
        assert command.help and all(param.help for param in command.params if isinstance(param, click.Option))


def test_version_and_short_help() -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["--version"]).stdout.startswith("synthgen, version ")
    for arguments in ([], ["render"]):
        assert (
            runner.invoke(main, [*arguments, "-h"]).stdout == runner.invoke(main, [*arguments, "--help"]).stdout != ""
        )


def test_options_and_python_names_are_the_same() -> None:
    names = {str(param.name) for param in render.params} - {"dry_run", "quiet"}
    assert names == set(RenderConfig.__dataclass_fields__)


def test_help_teaches() -> None:
    text = CliRunner().invoke(main, ["render", "--help"]).stdout
    for word in (*RENDER_OPTIONS, "What:", "Views:", "Images:", "How:", "Examples:", "shards preview"):
        assert word in text
    defaults = {
        "--generator": RenderConfig.__dataclass_fields__["generator"].default,
        "--std": synthgen.views.make_policy("gaussian").recipe()["std"],
        "--radius": synthgen.views.make_policy("ball").recipe()["radius"],
        "--degrees": f"{synthgen.views.make_policy('angular').recipe()['degrees']:g}",
        "--format": RenderConfig.__dataclass_fields__["format"].default,
        "--shard-size": synthgen.job.DEFAULT_SHARD_SIZE,
    }
    flat = re.sub(r"\s+", " ", text)
    for option, default in defaults.items():
        assert re.search(rf"{option} \S+ [^\[]*\[default: {default}\]", flat), option


def test_examples_parse() -> None:
    examples = re.findall(r"^ *synthgen render (.*?)(?:  .*)?$", str(render.epilog), re.MULTILINE)
    assert len(examples) >= 5
    for example in examples:
        params = render.make_context("render", example.split()).params
        assert (params["n"] is None) == (params["manifest"] is not None) and params["out"]


def test_dry_run_counts_and_writes_nothing(tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "d"
    options = [f"--out={out}", f"--weights={tiny_weights}", "--devices=cpu", "--shard-size=100", "--batch-size=20"]
    result = CliRunner().invoke(main, ["render", "--n=250", *options, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert not out.exists()
    said = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    assert said["shards"] == "3, 3 to render" and said["groups"] == "250, 250 to render"
    assert said["time"].startswith("about ") and said["disk left"].endswith("B")

    done = CliRunner().invoke(main, ["render", "--n=100", *options, "--quiet"])
    assert done.exit_code == 0 and done.stdout == ""
    result = CliRunner().invoke(main, ["render", "--n=250", *options, "--dry-run"])
    said = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    manifest = synthgen.job.load_manifest(out)
    assert said["recipe"] == manifest.recipe.id
    assert said["shards"] == "3, 2 to render" and said["groups"] == "250, 150 to render"
    number, unit = said["size"].removeprefix("about ").removesuffix(" more").split()
    estimated = float(number) * {"kB": 1e3, "MB": 1e6}[unit]
    assert estimated == pytest.approx(1.5 * manifest.total_bytes, rel=0.1)


def test_dry_run_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "default_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(weight_files, "download_weights", lambda name: pytest.fail("fetched"))
    result = CliRunner().invoke(
        main, ["render", "--n=4", f"--out={tmp_path / 'd'}", "--generator=biggan-deep-128", "--dry-run"]
    )
    assert result.exit_code == 0 and "not here yet" in result.stdout
    with pytest.raises(ValueError, match=r"the weights of biggan-deep-128 are not here; .*: give weights"):
        synthgen.render(n=4, out=tmp_path / "d", generator="biggan-deep-128", dry_run=True)
    assert list(tmp_path.iterdir()) == []


def test_generators_as_table_and_as_json() -> None:
    rows = json.loads(CliRunner().invoke(main, ["generators", "--json"]).stdout)
    assert rows == synthgen.generators()
    table = CliRunner().invoke(main, ["generators"]).stdout
    for row in rows:
        assert re.search(rf"^{row['name']} +{row['image_size']} ", table, re.MULTILINE)
    assert "17.92" in table and "50.4 M" in table


def test_help_says_how_to_bring_a_generator() -> None:
    text = CliRunner().invoke(main, ["generators", "--help"]).stdout
    for word in ("module:function", "FILE.pt2", "torch.export.save", "sample(latents, labels)", "Pickles are never"):
        assert word in text


def test_everything_public_is_documented() -> None:
    for name in synthgen.__all__:
        assert getattr(synthgen, name).__doc__, name
    for command in (main, *main.commands.values()):
        assert isinstance(command, click.Command) and command.help
