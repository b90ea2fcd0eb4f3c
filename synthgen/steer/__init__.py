"""Steering: walks in latent space along which a generator zooms, shifts, turns, brightens or colours its images.

import synthgen

synthgen.steer.train(out="walks.safetensors", edit="zoom,brightness")
synthgen.steer.show(walks="walks.safetensors", out="strip.png")
synthgen.render(n="1k", out="datasets/steered", views="steer", walks="walks.safetensors")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthgen.steer.learning import train
    from synthgen.steer.strips import show

__all__ = ["show", "train"]
_MODULES = {"show": "strips", "train": "learning"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
