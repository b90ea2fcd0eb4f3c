"""Pixel-space augmentation (T_x), drawn for every sample on its own and applied to the whole batch at once.

The parameters of a step are a function of (seed, step) for the whole global batch, and a rank takes its rows: no two
ranks share a draw, resuming needs no generator state, and the number of ranks does not change what a sample goes
through.

    draws = draw_augmentation(config, count=512, seed=0, step=17)
    images = augment(pixels, draws)       # uint8 [512, 32, 32, 3] -> float32 [512, 3, 32, 32] in [0, 1]

Order, always the same: crop and flip, brightness, contrast, saturation, hue, grayscale. Each operation equals its
namesake in torchvision.transforms.v2.functional.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601-2, with torchvision's digits
CPU_CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly images are changed. The defaults are SimCLR's for CIFAR-10."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the crop as a share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    jitter: float = 0.8
    """Probability that a sample's colours are jittered at all."""
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    """Factors are uniform in 1 ± this."""
    hue: float = 0.1
    """The shift is uniform in ± this; 0.5 is half the circle."""
    gray: float = 0.2
    """Probability of grayscale."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop scale {low}..{high}: give two numbers with 0 < low <= high <= 1")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop ratio {low}..{high}: give two numbers with 0 < low <= high")
        for name in ("flip", "jitter", "gray"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: a probability lies in 0..1")
        for name, bound in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= bound:
                raise ValueError(f"{name} {getattr(self, name)}: give a number in 0..{bound}")


@dataclass(frozen=True, kw_only=True)
class AugmentDraws:
    """The parameters of one batch, a row per sample; all float32 but `flip`.

    `top`, `left`, `height`, `width` are shares of the image's side in [0, 1]; `brightness`, `contrast`, `saturation`
    are factors (1 leaves the image as it is), `hue` a shift in [-0.5, 0.5] (0 leaves it), `gray` is 1 or 0.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    gray: Tensor

    def rows(self, first: int, last: int) -> AugmentDraws:
        """Samples first … last - 1."""
        return AugmentDraws(**{field.name: getattr(self, field.name)[first:last] for field in dataclasses.fields(self)})

    def to(self, device: torch.device) -> AugmentDraws:
        """The same on another device."""
        return AugmentDraws(
            **{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in dataclasses.fields(self)}
        )


def draw_augmentation(config: AugmentConfig, *, count: int, seed: int, step: int) -> AugmentDraws:
    """Parameters for the `count` samples of the global batch of a step; a function of the arguments alone.

    The crop is drawn as in Inception (Szegedy et al. 2015): area and log ratio uniform. Sides that would leave the
    image are cut to it, where torchvision draws again up to ten times and then takes the centre.
    """
    digest = hashlib.sha256(f"augment/{seed}/{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    uniform = torch.rand(12, count, generator=generator)
    area = config.crop_scale[0] + uniform[0] * (config.crop_scale[1] - config.crop_scale[0])
    low, high = math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1])
    ratio = torch.exp(low + uniform[1] * (high - low))
    height = (area / ratio).sqrt().clamp(max=1.0)
    width = (area * ratio).sqrt().clamp(max=1.0)
    jittered = uniform[5] < config.jitter

    def factor(row: Tensor, strength: float) -> Tensor:
        return torch.where(jittered, 1 + (2 * row - 1) * strength, torch.ones(()))

    return AugmentDraws(
        top=uniform[2] * (1 - height),
        left=uniform[3] * (1 - width),
        height=height,
        width=width,
        flip=uniform[4] < config.flip,
        brightness=factor(uniform[6], config.brightness),
        contrast=factor(uniform[7], config.contrast),
        saturation=factor(uniform[8], config.saturation),
        hue=torch.where(jittered, (2 * uniform[9] - 1) * config.hue, torch.zeros(())),
        gray=(uniform[10] < config.gray).float(),
    )


def augment(pixels: Tensor, draws: AugmentDraws) -> Tensor:
    """Augmented images, [B, 3, H, W] float32 in [0, 1], from uint8 [B, H, W, 3] on the device of the pixels."""
    if pixels.device.type == "cpu" and len(pixels) > CPU_CHUNK:
        # Every operation below walks over all pixels; a chunk stays in the cache between them (twice as fast).
        firsts = range(0, len(pixels), CPU_CHUNK)
        return torch.cat([_augment(pixels[i : i + CPU_CHUNK], draws.rows(i, i + CPU_CHUNK)) for i in firsts])
    return _augment(pixels, draws)


def _augment(pixels: Tensor, draws: AugmentDraws) -> Tensor:
    images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    images = crop_and_flip(images, draws.top, draws.left, draws.height, draws.width, draws.flip)
    images = adjust_brightness(images, draws.brightness)
    images = adjust_contrast(images, draws.contrast)
    images = adjust_saturation(images, draws.saturation)
    images = adjust_hue(images, draws.hue)
    return _blend(images, to_gray(images), 1 - draws.gray)


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, flip: Tensor) -> Tensor:
    """Crops (shares of the side, [B] each) enlarged to the full image, bilinear, then mirrored where told.

    Resizing along one side is linear, so it is a matrix per sample: two batched multiplications do the crop, the
    resize and the flip, whatever the crop. Crops need not lie on whole pixels.
    """
    columns = _resize_matrices(left, width, images.shape[3])  # [B, W, W]
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    rows = _resize_matrices(top, height, images.shape[2])  # [B, H, H]
    batch, channels, full_height, full_width = images.shape
    widened = torch.bmm(images.reshape(batch, channels * full_height, full_width), columns.mT)
    return torch.matmul(rows[:, None], widened.view(batch, channels, full_height, full_width))


def _resize_matrices(first: Tensor, length: Tensor, size: int) -> Tensor:
    """[B, size, size] weights that stretch [first, first + length), shares of the side, over the whole side."""
    first, length = first[:, None, None] * size, length[:, None, None] * size
    outputs = torch.arange(size, device=first.device, dtype=torch.float32)[None, :, None]
    inputs = torch.arange(size, device=first.device, dtype=torch.float32)[None, None, :]
    centres = first + (outputs + 0.5) * (length / size) - 0.5  # where an output pixel lies among the input pixels
    inside = (inputs > first - 1) & (inputs < first + length)  # no pixel from beyond the crop
    weights = (1 - (inputs - centres).abs()).clamp(min=0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Images times a [B] factor, cut to [0, 1]."""
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Images moved away from the mean of their own gray by a [B] factor, cut to [0, 1]."""
    return _blend(images, to_gray(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Images moved away from their own gray by a [B] factor, cut to [0, 1]."""
    return _blend(images, to_gray(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Images with a [B] shift in [-0.5, 0.5] added to the hue of HSV.

    HSV back to RGB in closed form: channel n is v - c * max(0, min(k, 4 - k, 1)) with k = (n + 6 hue) mod 6 and n =
    5, 3, 1.
    """
    value, largest = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    red, green, blue = images.unbind(dim=1)
    divisor = torch.where(chroma == 0, torch.ones((), device=images.device), chroma)
    # The sextant follows from the largest channel: (g - b), 2 + (b - r), 4 + (r - g), all over the chroma.
    sixfold = torch.where(
        largest == 0,
        (green - blue) / divisor,
        torch.where(largest == 1, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixfold = sixfold + 6 * shift[:, None, None]
    offsets = torch.arange(5, 0, -2, device=images.device, dtype=images.dtype)[None, :, None, None]
    k = (offsets + sixfold[:, None]).remainder_(6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def to_gray(images: Tensor) -> Tensor:
    """[B, 1, H, W] luma of [B, 3, H, W]."""
    red, green, blue = GRAY_WEIGHTS
    return (red * images[:, 0] + green * images[:, 1] + blue * images[:, 2])[:, None]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor[:, None, None, None]
    return (factor * images + (1 - factor) * other).clamp_(0, 1)
