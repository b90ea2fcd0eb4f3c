"""How the three commands speak: help of one kind, errors as one line, counts as people write them, progress.

The mapping from exceptions to exit codes exists once, here:

    ValueError, OSError, wrong usage    2, one line naming the fix
    DamageError                         1, one line naming the fix
    Ctrl-C                              130

    @click.group(cls=CommandGroup, epilog=examples("shards info datasets/tour"))
    def main() -> None: ...

    with Progress(total=4000, unit="groups", label="rendering") as progress:
        progress.advance(50, slowest="encode 81%")
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from types import TracebackType
from typing import Any

import click

_COUNT_PATTERN = re.compile(r"(\d[\d_]*(?:\.\d+)?)(?:e(\d{1,2}))?([kKmMgG]?)", re.ASCII)
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_LARGEST_COUNT = 10**15

_CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

_OS_ERROR_FIXES = {
    errno.ENOSPC: "free some space, then run the same command again: it resumes",
    errno.EDQUOT: "free some of your quota, then run the same command again: it resumes",
    errno.EFBIG: "raise the file size limit (ulimit -f), then run the same command again: it resumes",
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EPERM: "choose a place that you may read and write, or change its permissions",
    errno.EROFS: "choose a place that is not mounted read-only",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a file stands where a folder is needed",
    errno.EISDIR: "check the path: a folder stands where a file is needed",
    errno.ENOLCK: "choose a folder on a file system that has locks (NFS 4, Lustre mounted with flock, a local disk)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


_HELP_ASKED = getattr(
    click.exceptions, "NoArgsIsHelpError", BrokenPipeError
)  # newer versions of click raise it to show the help


class DamageError(Exception):
    """Files that exist are not what they should be: truncated, altered, or not decodable. Exit code 1."""


class OneLineError(click.ClickException):
    """What a command's user sees of an error: one line, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]  # a ClassVar in some versions of click


class CommandGroup(click.Group):
    """A click group whose commands end in one line and an exit code, never in a traceback, for what a user can cause.

    The environment variable SHARDS_TRACEBACK=1 prints the traceback above the line. Help is asked for by -h, too, and
    is as wide as the terminal, up to a limit.
    """

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.context_settings = {**_CONTEXT_SETTINGS, **self.context_settings}

    def invoke(self, ctx: click.Context) -> Any:
        with _errors_as_one_line(ctx):
            return super().invoke(ctx)


@contextmanager
def _errors_as_one_line(ctx: click.Context) -> Iterator[None]:
    try:
        yield
    except (OneLineError, BrokenPipeError, _HELP_ASKED):
        raise
    except click.UsageError as error:
        command = (error.ctx or ctx).command_path
        raise OneLineError(f"{error.format_message().rstrip('.')} (see: {command} --help)", 2) from error
    except DamageError as error:
        raise _one_line(str(error), 1) from error
    except ValueError as error:
        raise _one_line(str(error), 2) from error
    except OSError as error:
        raise _one_line(describe_os_error(error), 2) from error
    except KeyboardInterrupt as error:
        raise _one_line("stopped by Ctrl-C; run the same command again to resume", 130) from error


def _one_line(message: str, exit_code: int) -> OneLineError:
    if os.environ.get("SHARDS_TRACEBACK") == "1":
        traceback.print_exc()
    return OneLineError(message, exit_code)


def describe_os_error(error: OSError) -> str:
    """The path, what the system says, and what to do about it, in one line."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
    fix = _OS_ERROR_FIXES.get(error.errno or 0)
    return f"{where}{what}; {fix}" if fix else f"{where}{what}"


def describe_error(error: BaseException) -> str:
    """Kind and text of an exception of other people's code, in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


# ---------------------------------------------------------------------------------------------------------------------
# Help and JSON


class SectionedCommand(click.Command):
    """A command whose --help lists its options under headings.

    Args:
        sections: heading to names of parameters; what no section names stands under Other.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {str(param.name): param.get_help_record(ctx) for param in self.get_params(ctx)}
        named = {name for names in self.sections.values() for name in names}
        for heading, names in {**self.sections, "Other": [name for name in records if name not in named]}.items():
            rows = [record for name in names if (record := records.get(name)) is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def examples(*lines: str) -> str:
    """The epilog that shows command lines as they are typed; what one is good for follows it after two spaces and #."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, for programs.")


def echo_json(value: Any, *, one_line: bool = False) -> None:
    """Prints what a command found, in the layout that all of them have; one_line where values follow one another."""
    click.echo(json.dumps(value, indent=None if one_line else 1))


# ---------------------------------------------------------------------------------------------------------------------
# Quantities


def parse_count(text: str) -> int:
    """The count that people write as 1300000, 1_300_000, 1.3M, 4k or 2e4.

    Raises:
        ValueError: not such a number, not a whole one, below 1, or above 10^15.
    """
    match = _COUNT_PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a count: write a whole number above 0, such as 1300000, 1.3M or 4k")
    digits, exponent, unit = match.groups()
    value = Decimal(digits.replace("_", "")) * 10 ** int(exponent or 0) * _COUNT_UNITS[unit.lower()]
    if value != value.to_integral_value():
        raise ValueError(f"'{text}' is not a whole number: write one such as 1300000, 1.3M or 4k")
    if not 1 <= value <= _LARGEST_COUNT:
        raise ValueError(f"'{text}' is out of range: write a whole number from 1 to {_LARGEST_COUNT:.0e}")
    return int(value)


class Count(click.ParamType):
    """Command-line type of a count above zero: 1300000, 1.3M, 4k, 2e4."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_count(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def format_count(count: int) -> str:
    """The shortest exact writing with at most two decimals: 1300000 as 1.3M, 4000 as 4k, 4321 as 4321."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(count) >= size and count % (size // 100) == 0:
            return f"{Decimal(count) / size:f}{unit}"
    return str(count)


def format_things(count: int, noun: str) -> str:
    """A count and what it counts, shortest as in format_count: 1 shard, 4k shards."""
    return f"{format_count(count)} {noun}" if count == 1 else f"{format_count(count)} {noun}s"


def format_bytes(count_bytes: float) -> str:
    """Decimal units, two significant digits or more: 1.2 GB, 34 MB, 512 B."""
    size = float(count_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or abs(size) >= 9.95 else f"{size:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """Two units at most: 1 h 02 min, 3 min 20 s, 12 s, 0.4 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


# ---------------------------------------------------------------------------------------------------------------------
# Progress


class Progress:
    """Progress on stderr: a bar on a terminal, elsewhere one plain line now and then, and one at the end.

    Args:
        total: units of the whole job; None where it is not known.
        initial: units that an earlier run has done; they count as done but not for the rate.
        every_seconds: shortest time between two plain lines.
        quiet: says nothing at all.
    """

    def __init__(
        self,
        *,
        total: int | None,
        unit: str,
        label: str,
        initial: int = 0,
        every_seconds: float = 10.0,
        quiet: bool = False,
    ) -> None:
        self._total, self._unit, self._label, self._initial = total, unit, label, initial
        self._every_seconds = every_seconds
        self._quiet = quiet
        self._done = initial
        self._fields: dict[str, object] = {}
        self._lock = threading.Lock()
        self._bar: Any = None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        if not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, unit=f" {self._unit}", desc=self._label, initial=self._initial, dynamic_ncols=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not self._quiet:
            self._write_line("stopped at " if kind is not None else "")

    def advance(self, count: int = 1, **fields: object) -> None:
        """Adds count units; fields are shown at the end of the line until they are given again."""
        with self._lock:
            self._done += count
            self._fields.update(fields)
            if self._bar is not None:
                if fields:
                    self._bar.set_postfix_str(self._fields_text(), refresh=False)
                self._bar.update(count)
            elif not self._quiet and time.monotonic() - self._last_line >= self._every_seconds:
                self._last_line = time.monotonic()
                self._write_line("")

    def note(self, text: str) -> None:
        """One line of its own that does not break the bar."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """As note, but said even where progress is not: something went wrong, and the work goes on."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _fields_text(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self._fields.items())

    def _write_line(self, prefix: str) -> None:
        elapsed = time.monotonic() - self._started
        rate = (self._done - self._initial) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self._done} {self._unit}"]
        if self._total is not None:
            share = 100 * self._done / self._total if self._total else 100.0
            parts = [f"{self._done}/{self._total} {self._unit} ({share:.0f}%)"]
        if rate > 0:
            parts.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        if self._total is not None and rate > 0 and self._done < self._total:
            parts.append(f"{format_seconds((self._total - self._done) / rate)} left")
        else:
            parts.append(format_seconds(elapsed))
        if self._fields:
            parts.append(self._fields_text())
        print(f"{self._label}: {prefix}{', '.join(parts)}", file=sys.stderr, flush=True)
