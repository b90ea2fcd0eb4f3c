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


@pytest.mark.parametrize("room", FORBIDDEN)
def test_importing_a_room_loads_no_torch(room: str) -> None:
    code = f"import sys, {room}, {room}.cli; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
