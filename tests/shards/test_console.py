"""Commands end in one line and an exit code; counts and sizes read as people write them."""

from __future__ import annotations

import errno

import click
import pytest
from click.testing import CliRunner

from shards.console import CommandGroup, Count
from shards.errors import DamageError
from shards.progress import Progress
from shards.quantities import format_bytes, format_count, format_seconds, format_things, parse_count


@pytest.mark.parametrize(
    ("text", "count"),
    [("1300000", 1300000), ("1.3M", 1300000), ("4k", 4000), ("4K", 4000), ("2e4", 20000), ("1_000", 1000), ("1", 1)],
)
def test_counts_are_read_as_people_write_them(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["0", "-4", "1.3Q", "", "1.5", "0.0001k", "nan", "k", "1,5", "1e99", "٣"])
def test_what_is_no_count_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"whole number|count") as caught:
        parse_count(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("count", "text"), [(1300000, "1.3M"), (4000, "4k"), (4321, "4321"), (1, "1"), (12500, "12.5k")]
)
def test_counts_are_written_short_and_exact(count: int, text: str) -> None:
    assert format_count(count) == text
    assert parse_count(text) == count


def test_quantities_for_people() -> None:
    assert [format_things(n, "shard") for n in (0, 1, 2, 4000)] == ["0 shards", "1 shard", "2 shards", "4k shards"]
    assert [format_bytes(n) for n in (512, 1.24e9, 34.4e6, 999_700)] == ["512 B", "1.2 GB", "34 MB", "1.0 MB"]
    assert [format_seconds(s) for s in (0.42, 12.3, 200, 3599.7, 3720)] == [
        "0.4 s",
        "12 s",
        "3 min 20 s",
        "1 h 00 min",
        "1 h 02 min",
    ]


def _group_raising(error: BaseException) -> click.Group:
    @click.group(cls=CommandGroup)
    def main() -> None: ...

    @main.command()
    @click.option("--n", type=Count())
    def act(n: int | None) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("--n 5:\n ask for fewer"), 2, "Error: --n 5: ask for fewer\n"),
        (DamageError("shard 3 is truncated"), 1, "Error: shard 3 is truncated\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            2,
            "Error: /data/x: No space left on device; free some space, then run the same command again: it resumes\n",
        ),
        (
            KeyboardInterrupt(),
            130,
            "Error: stopped by Ctrl-C: what is finished is kept; run the same command again for the rest\n",
        ),
    ],
)
def test_errors_become_one_line_and_an_exit_code(error: BaseException, code: int, line: str) -> None:
    result = CliRunner().invoke(_group_raising(error), ["act"])
    assert (result.exit_code, result.stderr) == (code, line)


def test_wrong_usage_is_one_line_too() -> None:
    result = CliRunner().invoke(_group_raising(ValueError()), ["act", "--n", "1.3Q"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1 and "'1.3Q' is not a count" in result.stderr and "--help" in result.stderr


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    assert isinstance(CliRunner().invoke(_group_raising(KeyError("x")), ["act"]).exception, KeyError)


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDS_TRACEBACK", "1")
    result = CliRunner().invoke(_group_raising(ValueError("no")), ["act"])
    assert "Traceback" in result.stderr and result.stderr.endswith("Error: no\n")


def test_progress_off_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total=10, unit="groups", label="rendering", initial=2, every_seconds=0.0) as progress:
        progress.advance(3, slowest="encode 81%")
        progress.note("one thing")
        progress.advance(5)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert lines[0].startswith("rendering: 5/10 groups (50%), ") and lines[0].endswith("left, slowest encode 81%")
    assert lines[1] == "one thing"
    assert lines[-1].startswith("rendering: 10/10 groups (100%), ")


def test_progress_is_rare_and_can_be_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total=100, unit="groups", label="reading", every_seconds=3600) as progress:
        for _ in range(100):
            progress.advance()
    with Progress(total=5, unit="groups", label="silent", every_seconds=0, quiet=True) as progress:
        progress.advance(5)
        progress.note("nothing")
    assert len(capsys.readouterr().err.splitlines()) == 1
