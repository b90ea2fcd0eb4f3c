"""A folder of real picture files that hold noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_noise(folder: Path, *, seed: int) -> Path:
    """Two classes of ten pictures, none of them like those of another seed."""
    rng = np.random.default_rng(seed)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder
