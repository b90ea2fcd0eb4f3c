"""From what a generator gives to the pixels that are stored: the one place that resizes and rounds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_pixels(images: Tensor, *, size: int | None = None) -> Tensor:
    """Pixels [B, H, W, 3], uint8, of images [B, 3, H, W] in [-1, 1].

    (x + 1) * 127.5 in float32, rounded half to even and clamped to 0 … 255. Another size comes from antialiased bicubic
    interpolation of the unrounded images.
    """
    images = images.float()
    if size is not None and size != images.shape[-1]:
        images = F.interpolate(
            images.contiguous(), size=(size, size), mode="bicubic", antialias=True, align_corners=False
        )
    levels = ((images + 1.0) * 127.5).round_().clamp_(0.0, 255.0)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
