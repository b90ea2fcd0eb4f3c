"""How far a job is: a bar on a terminal, a plain line now and then elsewhere.

with Progress(total=4000, unit="groups", label="rendering") as progress:
    progress.advance(50, slowest="encode 81%")
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Any

from shards.quantities import format_seconds


class Progress:
    """Progress on stderr: a bar on a terminal, elsewhere one plain line now and then, and one at the end.

    Args:
        total: units of the whole job.
        initial: units that an earlier run has done; they count as done but not for the rate.
        every_seconds: shortest time between two plain lines.
        quiet: says nothing at all.
    """

    def __init__(
        self,
        *,
        total: int,
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
        share = 100 * self._done / self._total if self._total else 100.0
        parts = [f"{self._done}/{self._total} {self._unit} ({share:.0f}%)"]
        if rate > 0:
            parts.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
        if rate > 0 and self._done < self._total:
            parts.append(f"{format_seconds((self._total - self._done) / rate)} left")
        else:
            parts.append(format_seconds(elapsed))
        if self._fields:
            parts.append(self._fields_text())
        print(f"{self._label}: {prefix}{', '.join(parts)}", file=sys.stderr, flush=True)
