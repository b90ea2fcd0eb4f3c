"""Learns an encoder from groups of images that belong together, and scores it on real photographs.

    import contrast

    contrast.train(shards="datasets/tour", out="runs/tour", n=2000, epochs=5)
    contrast.eval(run="runs/tour", data="cifar10", data_root="datasets/cifar10", num_train=10_000)
    contrast.report(run="runs/tour", out="report.html")

Every command of `contrast --help` is a function of that name, with the command's options as its keywords (`contrast
data cifar10` is contrast.data.cifar10). torch is imported with the first of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from contrast import data

if TYPE_CHECKING:
    from contrast.comparison import compare
    from contrast.evaluation.scoring import evaluate_run as eval
    from contrast.exporting import export_run as export
    from contrast.page import write_report as report
    from contrast.starting import train

__all__ = ["compare", "data", "eval", "export", "report", "train"]
_FUNCTIONS = {
    "compare": "comparison.compare",
    "eval": "evaluation.scoring.evaluate_run",
    "export": "exporting.export_run",
    "report": "page.write_report",
    "train": "starting.train",
}


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, _, function = _FUNCTIONS[name].rpartition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def __dir__() -> list[str]:
    return __all__
