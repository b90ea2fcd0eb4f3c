"""The three commands speak alike: help of one width, with examples that are true, headings, and JSON of one layout."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

import contrast.cli
import shards.cli
import synthgen.cli
from shards.console import SectionedCommand

MAINS: dict[str, click.Group] = {
    "synthgen": synthgen.cli.main,
    "shards": shards.cli.main,
    "contrast": contrast.cli.main,
}


def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from walk(f"{path} {name}", child)


COMMANDS = dict(entry for name, main in MAINS.items() for entry in walk(name, main))
SECTIONED = {path: command for path, command in COMMANDS.items() if isinstance(command, SectionedCommand)}


def help_of(path: str, **settings: int) -> str:
    name, *words = path.split()
    result = CliRunner().invoke(MAINS[name], [*words, "--help"], **settings)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if isinstance(command, click.Group)])
def test_no_short_help_is_cut(path: str) -> None:
    for columns in (80, 100):
        listed = help_of(path, terminal_width=columns - 2).split("Commands:")[1].split("Examples:")[0]
        assert "..." not in listed, (columns, listed)


def test_all_three_have_one_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    formatters = [click.Context(main, **main.context_settings).make_formatter() for main in MAINS.values()]
    assert {formatter.width for formatter in formatters} == {108}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_examples_and_they_parse(path: str) -> None:
    epilog = str(COMMANDS[path].epilog)
    assert epilog.startswith("\b\nExamples:\n"), "made by shards.console.examples"
    assert "\n  Examples:\n    " in help_of(path), "shown line by line"
    lines = epilog.split("\n\n")[0].replace("\\\n", " ").splitlines()[2:]
    assert any(line.split()[: len(path.split())] == path.split() for line in lines), "one of its own"
    for line in lines:
        name, *words = shlex.split(line, comments=True)
        if name in MAINS:
            command: click.Command = MAINS[name]
            main = click.Context(command, **command.context_settings)
            while isinstance(command, click.Group):
                command = command.commands[words.pop(0)]
            command.make_context(line, words, parent=main)


def registries() -> dict[tuple[str, str], tuple[str, ...]]:
    """What each option with choices chooses from, as the code that takes it knows."""
    import synthgen.config
    import synthgen.devices
    import synthgen.latent_directions
    import synthgen.verification
    from contrast import config, exporting, objectives, positives, readers
    from shards import converting, pictures

    train, render = "contrast train", "synthgen render"
    return {
        (train, "objective"): tuple(objectives.OBJECTIVES),
        (train, "positives"): positives.POSITIVES,
        (train, "reader"): readers.READERS,
        (train, "optimizer"): config.OPTIMIZERS,
        (train, "precision"): ("auto", *config.PRECISIONS),
        ("contrast export", "format"): exporting.FORMATS,
        (render, "format"): ("jpg", "png"),
        (render, "dtype"): synthgen.devices.DTYPES,
        (render, "runner"): synthgen.config.RUNNERS,
        ("synthgen directions", "method"): synthgen.latent_directions.METHODS,
        ("synthgen verify-render", "dtype"): synthgen.verification.DTYPES,
        ("shards to-ffcv", "mode"): converting.MODES,
        ("shards from-images", "format"): ("jpg", "png"),
        ("shards from-images", "split"): pictures.SPLITS,
    }


def test_an_option_offers_what_is_there() -> None:
    offered = {
        (path, str(param.name)): tuple(param.type.choices)
        for path, command in COMMANDS.items()
        for param in command.params
        if isinstance(param.type, click.Choice)
    }
    assert {key: sorted(choices) for key, choices in offered.items()} == {
        key: sorted(choices) for key, choices in registries().items()
    }


def test_the_long_commands_have_headings() -> None:
    assert set(SECTIONED) == {"synthgen render", "contrast train", "contrast eval"}


@pytest.mark.parametrize("path", SECTIONED)
def test_every_option_stands_under_exactly_one_heading(path: str) -> None:
    named = [name for names in SECTIONED[path].sections.values() for name in names]
    assert sorted(named) == sorted(str(param.name) for param in SECTIONED[path].params)
    text = help_of(path)
    for heading in (*SECTIONED[path].sections, "Other"):
        assert f"\n{heading}:\n" in text
    assert text.split("\nOther:\n")[1].split("Examples:")[0].strip() == "-h, --help  Show this message and exit."


def test_json_is_said_alike() -> None:
    found = {
        path: param.help
        for path, command in COMMANDS.items()
        for param in command.params
        if isinstance(param, click.Option) and param.name == "as_json"
    }
    assert len(found) == 12 and set(found.values()) == {"Print JSON on stdout, for programs."}


def test_json_has_one_layout(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "é", "rows": [1, 2]}
    shards.console.echo_json(value)
    indented = capsys.readouterr().out
    assert indented.startswith('{\n "name": ') and json.loads(indented) == value
    shards.console.echo_json(value, one_line=True)
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and json.loads(line) == value
