"""Edits of pixels that a latent walk is to imitate, and which pixels of the result can be judged.

Every edit takes alpha in [-1, 1], 0 for no change, as in "On the steerability of generative adversarial networks"
(Jahanian, Chai and Isola 2020). Zooming, shifting and turning bring in pixels from outside the frame, of which an
image says nothing: a mask leaves them out.

    edited, mask = apply_edit("zoom", images, alphas)        # [B, 3, H, W], [B, 1, H, W]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as in torchvision's rgb_to_grayscale


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One kind of edit and how far it goes."""

    largest: float
    """Amount at alpha 1."""
    is_factor: bool
    """Whether the amount is largest ** alpha, so that -1 undoes what 1 does; largest * alpha otherwise."""
    meaning: str
    """The amount, in words."""
    apply: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(images in [0, 1], amounts [B]) to (edited images, mask)."""

    def amounts(self, alphas: Tensor) -> Tensor:
        """What alphas [B] mean in the edit's own unit."""
        return self.largest**alphas if self.is_factor else self.largest * alphas


def apply_edit(name: str, images: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Edited images [B, 3, H, W] in [-1, 1], and a mask [B, 1, H, W] that is 1 where they can be judged, else 0.

    Images [B, 3, H, W] are in [-1, 1], alphas [B] one per image. Differentiable in both.
    """
    edit = EDITS[name]
    edited, mask = edit.apply((images + 1) / 2, edit.amounts(alphas))
    return edited * 2 - 1, mask


def zoom(images: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Enlarged `factors` times about the centre."""
    zero = torch.zeros_like(factors)
    return _warp(images, _rows([1 / factors, zero, zero], [zero, 1 / factors, zero]))


def shift_x(images: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Moved to the right by fractions of the width."""
    zero, one = torch.zeros_like(fractions), torch.ones_like(fractions)
    return _warp(images, _rows([one, zero, -2 * fractions], [zero, one, zero]))


def shift_y(images: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Moved down by fractions of the height."""
    zero, one = torch.zeros_like(fractions), torch.ones_like(fractions)
    return _warp(images, _rows([one, zero, zero], [zero, one, -2 * fractions]))


def rotate(images: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Turned counter-clockwise about the centre; images are square."""
    angles = degrees * (math.pi / 180)
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    return _warp(images, _rows([cos, -sin, zero], [sin, cos, zero]))


def brightness(images: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Every channel times its image's factor, clamped to [0, 1]."""
    return (images * factors[:, None, None, None]).clamp(0, 1), torch.ones_like(images[:, :1])


def colour(images: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Saturation: away from (above 1) or towards (below 1) the image in grey, clamped to [0, 1]."""
    weights = torch.tensor(_GREY, dtype=images.dtype, device=images.device)[None, :, None, None]
    grey = (images * weights).sum(dim=1, keepdim=True)
    return (grey + factors[:, None, None, None] * (images - grey)).clamp(0, 1), torch.ones_like(grey)


def _rows(first: list[Tensor], second: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack(first, dim=-1), torch.stack(second, dim=-1)], dim=1)


def _warp(images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear samples at affine places [B, 2, 3]: from a pixel of the result to where it comes from, in [-1, 1].

    The mask keeps a pixel when its place lies among the centres of the frame's pixels, so that nothing is made up.
    """
    height, width = images.shape[-2:]
    grid = F.affine_grid(places, list(images.shape), align_corners=False)
    edited = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    limits = torch.tensor([1 - 1 / width, 1 - 1 / height], dtype=grid.dtype, device=grid.device)
    inside = (grid.detach().abs() <= limits + 1e-5).all(dim=-1)
    return edited, inside[:, None].to(images.dtype)


EDITS: Mapping[str, Edit] = {
    "zoom": Edit(largest=1.6, is_factor=True, meaning="enlarged 1.6 times", apply=zoom),
    "shift_x": Edit(largest=0.25, is_factor=False, meaning="a quarter of the width to the right", apply=shift_x),
    "shift_y": Edit(largest=0.25, is_factor=False, meaning="a quarter of the height down", apply=shift_y),
    "rotate": Edit(largest=30.0, is_factor=False, meaning="30 degrees counter-clockwise", apply=rotate),
    "brightness": Edit(largest=1.6, is_factor=True, meaning="1.6 times as bright", apply=brightness),
    "colour": Edit(largest=2.0, is_factor=True, meaning="twice as saturated", apply=colour),
}
