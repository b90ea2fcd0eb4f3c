"""What the benchmarks share: rounds in which every contestant takes its turn, the machine's description, a table.

A neighbour that is busy for a while slows one round of every contestant, and not all rounds of one; the medians, and
above all their ratios, hardly notice.

    rates = measure_rounds({"ours": run_ours, "theirs": run_theirs}, repeats=3, label="reading")
    rates["ours"]                                           # median units per second over the rounds
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from shards.console import CommandGroup
from shards.cpu import cpu_name
from shards.progress import Progress


class Program(CommandGroup):
    """A program of one command that needs no name, with the errors of the packages' commands: one line, exit code 2.

    main = Program()

    @main.command()
    def measure() -> None: ...
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        (name,) = self.commands
        return super().parse_args(ctx, [name, *args])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _, command, rest = super().resolve_command(ctx, args)
        return "", command, rest  # an empty name: help and errors show the program's own


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, in place of the table.")


def as_help(docstring: str | None) -> str:
    """A module's docstring as the help of its command, indented lines as they are."""
    return (docstring or "").replace("\n\n    ", "\n\n\b\n    ")


def measure_rounds(contestants: Mapping[str, Callable[[], float]], *, repeats: int, label: str) -> dict[str, float]:
    """The median over `repeats` rounds of what each contestant returns, a rate; a round runs each of them once.

    Each round begins with the next contestant, so that none always comes after the same one.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    with Progress(total=repeats * len(contestants), unit="runs", label=label) as progress:
        names = deque(contestants)
        for _ in range(repeats):
            for name in names:
                rates[name].append(contestants[name]())
                progress.advance(last=f"{name} {format_rate(rates[name][-1])}/s")
            names.rotate(-1)
    return {name: statistics.median(values) for name, values in rates.items()}


def describe_machine(packages: Iterable[str], *, gpu: str | None = None) -> dict[str, Any]:
    """Hardware, load, versions and date: what a rate means nothing without.

    The load is the number of processes that wanted a core during the last minute, this one not counted out.
    """
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def format_machine(machine: Mapping[str, Any]) -> list[str]:
    """Two lines for people: hardware with its load and the date, and versions."""
    hardware = f"{machine['cpu']}, usable cores: {machine['cores']}"
    if machine["gpu"]:
        hardware = f"{machine['gpu']}; {hardware}"
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return [f"{hardware}; load before the start {machine['load_before']}; {machine['date']}", versions]


def format_rate(rate: float) -> str:
    """Three significant digits or all digits before the point: 0.812, 46.1, 5120."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def print_result(result: Mapping[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """One JSON object on stdout, or the lines for people."""
    click.echo(json.dumps(result, indent=1) if as_json else "\n".join(lines))
