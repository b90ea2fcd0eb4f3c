"""The import rule: shards knows neither of the others, synthgen and contrast never meet, shards needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "shards": {"synthgen", "contrast", "torch", "torchvision"},
    "synthgen": {"contrast"},
    "contrast": {"synthgen"},
}


def imported_packages(source: str) -> set[str]:
    """Top-level names of everything that a module imports, at its head or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_reader_of_imports_sees_all_kinds() -> None:
    source = "import a.b\nfrom c.d import e\ndef f():\n    import g as h\nfrom . import own\n"
    assert imported_packages(source) == {"a", "c", "g"}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_know_only_whom_they_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert len(files) > 5
    for path in files:
        assert not imported_packages(path.read_text()) & FORBIDDEN[room], path


EVERYTHING_OF = {
    "shards": "import shards.cli, shards.remote, shards.summary; [getattr(shards, name) for name in shards.__all__]",
    "synthgen": "import synthgen.cli",
    "contrast": "import contrast.cli",
}


@pytest.mark.parametrize("room", EVERYTHING_OF)
def test_a_room_is_imported_and_explains_itself_without_what_is_slow_to_load(room: str) -> None:
    slow = ["torch", "torchvision", "sklearn", "scipy", "matplotlib", "tqdm", "webdataset", "ffcv"]
    slow += ["fsspec", "obstore", "aiohttp"]
    code = (
        f"import sys; {EVERYTHING_OF[room]}\n"
        f"for arguments in [['--help'], *([name, '--help'] for name in {room}.cli.main.commands)]:\n"
        f"    {room}.cli.main(arguments, standalone_mode=False)\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_what_is_slow_to_load_would_be_seen() -> None:
    code = "import sys, contrast.training; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"
