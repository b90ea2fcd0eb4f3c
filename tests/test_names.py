"""Everything a command does is callable from Python under the same names: commands are functions, options keywords."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import click
import pytest

import contrast
import shards
import synthgen
from synthgen.config import RenderConfig

SPOKEN = {"as_json", "watch"}
"""Options of how a command speaks: a function returns what it has to say."""
PASSED_ON = {"synthgen.render": set(RenderConfig.__dataclass_fields__)}
"""Keywords of functions that take `**options`."""


def commands(package: ModuleType) -> Iterator[tuple[str, click.Command]]:
    def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                yield from walk(f"{path}.{name.replace('-', '_')}", child)
        else:
            yield path, command

    return walk(package.__name__, import_module(f"{package.__name__}.cli").main)


COMMANDS = dict(entry for package in (synthgen, shards, contrast) for entry in commands(package))


def test_the_walk_finds_commands_and_groups() -> None:
    assert {"synthgen.render", "shards.verify", "contrast.eval", "contrast.data.cifar10"} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_is_a_function_with_its_options_as_keywords(path: str) -> None:
    function: object = sys.modules[path.split(".")[0]]
    for name in path.split(".")[1:]:
        function = getattr(function, name)
    assert inspect.isfunction(function), path
    assert function.__doc__, path
    keywords = set(inspect.signature(function).parameters) | PASSED_ON.get(path, set())
    if path == "contrast.train":
        from contrast.config import TrainConfig

        keywords |= set(TrainConfig.__dataclass_fields__)
    options = {str(parameter.name) for parameter in COMMANDS[path].params} - SPOKEN
    assert options <= keywords, f"{path} has no keyword {sorted(options - keywords)}"


@pytest.mark.parametrize("package", ["synthgen", "shards", "contrast"])
def test_the_functions_stay_when_every_module_is_loaded(package: str) -> None:
    """A module of a command's name would take its place as soon as somebody imports it."""
    names = [path for path in COMMANDS if path.startswith(f"{package}.")]
    code = f"""
import importlib, inspect, pkgutil, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for path in {names}:
    found = {package}
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    assert inspect.isfunction(found), path
"""
    subprocess.run([sys.executable, "-c", code], check=True)
