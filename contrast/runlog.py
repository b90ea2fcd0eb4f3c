"""The record of a run, one JSON object a line, and the same for TensorBoard where that is asked for.

    log = RunLog(run, tensorboard=False)
    log.write({"step": 10, "loss": 5.1})
    read_metrics(run)                     # [{"step": 10, "loss": 5.1}]

A resumed run first drops what was recorded after the checkpoint that it starts from, so every step is recorded once.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from shards.atomic import write_atomically
from shards.errors import DamageError

METRICS_NAME = "metrics.jsonl"


class RunLog:
    """Appends to RUN/metrics.jsonl, flushed line by line; TensorBoard drops what it has of steps after `first_step`.

    Raises:
        ValueError: TensorBoard is asked for and not installed.
    """

    def __init__(self, run: Path, *, tensorboard: bool, first_step: int = 0) -> None:
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("TensorBoard is not installed: pip install -e '.[tensorboard]' in the clone") from None
            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)
        self._file = open(run / METRICS_NAME, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the log is

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def write(self, record: dict[str, float]) -> None:
        """Adds one record; it has a `step`."""
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(record["step"]))


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The records in order; a last line cut short by a kill is left out.

    Raises:
        DamageError: another line is no record.
    """
    path = run / METRICS_NAME
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            continue
        try:
            record = json.loads(line)
            if not all(isinstance(value, int | float) for value in record.values()) or "step" not in record:
                raise ValueError("no step, or a value that is no number")
        except (ValueError, AttributeError) as error:
            raise DamageError(f"{path}, line {number}, is no record ({error}): remove that line") from error
        records.append(record)
    return records


def rewind_metrics(run: Path, *, step: int) -> None:
    """Drops the records of steps after `step`."""
    kept = [record for record in read_metrics(run) if record["step"] <= step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    write_atomically(run / METRICS_NAME, text.encode())
