"""A dataset grown from 6 to 10 groups by processes that SIGKILL themselves; run by test_kill.py, on its own.

    python killed_writer.py FOLDER

Process k works in FOLDER/k and dies just before its k-th touch of the file system, at any of open, rename and remove.
Prints how many processes died; the first that lives to the end is the last.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path


def die_at(moment: int, folder: str) -> None:
    """Installs the hook: Python itself reports every open, rename and remove before it happens."""
    touches = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal touches
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(folder):
            touches += 1
            if touches == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def main(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("datasets_for_tests", Path(__file__).with_name("conftest.py"))
    assert spec is not None and spec.loader is not None
    datasets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(datasets)
    moment = 1
    while True:
        child = os.fork()
        if child == 0:
            die_at(moment, str(folder / str(moment)))
            datasets.write_dataset(folder / str(moment), 6)
            datasets.write_dataset(folder / str(moment), 10)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status) or print(moment - 1))
        assert os.WTERMSIG(status) == signal.SIGKILL
        moment += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
