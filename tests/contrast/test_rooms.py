"""What this package may know: shards, and never the package that renders."""

from __future__ import annotations

import ast
from pathlib import Path

import contrast


def test_contrast_never_imports_synthgen() -> None:
    files = list(Path(contrast.__file__).parent.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "synthgen"], file
