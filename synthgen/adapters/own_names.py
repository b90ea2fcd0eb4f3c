"""How a generator that is not in the table is named: module:function, or FILE.pt2. Needs no torch.

kind_of_name("my_faces:make")        # function
kind_of_name("weights/faces.pt2")    # program
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_PICKLE_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".tar"})


def kind_of_name(name: str) -> Literal["function", "program"] | None:
    """What a name outside of the table names; None where it has neither form."""
    if name.endswith(".pt2"):
        return "program"
    return "function" if _FUNCTION.fullmatch(name) else None


def check_own_name(name: str) -> None:
    """Raises ValueError for names that nearly are one: a pickle, a module without a function, Python's file."""
    suffix = Path(name).suffix.lower()
    if suffix in _PICKLE_SUFFIXES:
        raise ValueError(
            f"{name} is a pickle, which could run any code, and is never loaded as a generator: write the network as a "
            "program with synthgen.adapters.program_export.export_program, and give that .pt2 file "
            "(docs/bring-your-own-generator.md)"
        )
    if suffix == ".py" or ".py:" in name:
        raise ValueError(f"{name}: name the module and its function, {Path(name.split(':')[0]).stem}:FUNCTION")
    if ":" in name and kind_of_name(name) is None:
        raise ValueError(f"{name}: give module:function, such as my_faces:make, or package.module:function")
