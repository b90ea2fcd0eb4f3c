"""How the three commands speak: help of one kind, errors as one line, JSON in one layout.

The mapping from exceptions to exit codes exists once, here:

    ValueError, OSError, wrong usage    2, one line naming the fix
    DamageError                         1, one line naming the fix
    Ctrl-C                              130

    @click.group(cls=CommandGroup, epilog=examples("shards info datasets/tour"))
    def main() -> None: ...
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from shards.errors import DamageError, describe_os_error
from shards.quantities import parse_count

_CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


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
    except (OneLineError, BrokenPipeError, click.exceptions.NoArgsIsHelpError):
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
        message = "stopped by Ctrl-C: what is finished is kept; run the same command again for the rest"
        raise _one_line(message, 130) from error


def _one_line(message: str, exit_code: int) -> OneLineError:
    if os.environ.get("SHARDS_TRACEBACK") == "1":
        traceback.print_exc()
    return OneLineError(message, exit_code)


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


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column flush left, the others flush right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return [
        f"{line[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    ]


def echo_json(value: Any, *, one_line: bool = False) -> None:
    """Prints what a command found, in the layout that all of them have; one_line where values follow one another."""
    click.echo(json.dumps(value, indent=None if one_line else 1))


class Count(click.ParamType):
    """Command-line type of a count above zero: 1300000, 1.3M, 4k, 2e4."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_count(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
