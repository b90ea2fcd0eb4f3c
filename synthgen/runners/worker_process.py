"""A process of its own that renders on one device; started by synthgen.runners.processes, never by hand.

It is told what to do by one line of JSON on its standard input, which stays open as long as its parent lives: when it
ends, so does the worker, at once. What went wrong is told by one line of JSON on its standard output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any


def main() -> None:
    """Reads the request, renders, and exits with 0 when all shards are done, with 1 after telling what went wrong."""
    signal.signal(signal.SIGTERM, _stop)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever prints must not be taken for an answer
    request = json.loads(sys.stdin.readline() or "null")
    if request is None:
        sys.exit(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.sched_setaffinity(0, request["cores"])
    try:
        _render(request)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        json.dump(error_to_json(error), answers)
        answers.flush()
        if error_to_json(error)["kind"] == "other":
            raise
        sys.exit(1)


def error_to_json(error: BaseException) -> dict[str, Any]:
    """What the parent needs to raise the same error."""
    from shards.errors import DamageError

    if isinstance(error, OSError):
        filename = None if error.filename is None else os.fsdecode(error.filename)
        return {"kind": "OSError", "errno": error.errno, "message": error.strerror or str(error), "filename": filename}
    kind = next((kind.__name__ for kind in (DamageError, ValueError) if isinstance(error, kind)), "other")
    return {"kind": kind, "message": str(error) if kind != "other" else f"{type(error).__name__}: {error}"}


def _render(request: dict[str, Any]) -> None:
    from synthgen.config import RenderConfig
    from synthgen.job import prepare_job
    from synthgen.plan import ShardPlan
    from synthgen.runners.worker import Worker

    config = RenderConfig(**request["config"])
    assert config.out == Path(request["config"]["out"])
    job = prepare_job(config)
    if job.recipe.id != request["recipe_id"]:
        raise ValueError(
            f"the generator on {config.devices} is not the one that the job began with: its weights or "
            "files were replaced meanwhile; put them back, and the same command resumes"
        )
    Worker(job, task=request["task"]).run([ShardPlan(**shard) for shard in request["shards"]])


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)  # as if killed: who holds the folder next sweeps up


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
