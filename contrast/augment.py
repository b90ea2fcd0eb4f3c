"""Pixel-space augmentation (T_x), drawn for every sample on its own and applied to the whole batch at once.

The parameters of a step are a function of (seed, step) for the whole global batch, and a rank takes its rows: no two
ranks share a draw, resuming needs no generator state, and the number of ranks does not change what a sample goes
through.

    draws = draw_augmentation(config, count=512, seed=0, step=17)
    images = augment(pixels, draws)       # uint8 [512, 32, 32, 3] -> float32 [512, 3, 32, 32] in [0, 1]

Order, always the same: crop and flip, brightness, contrast, saturation, hue, grayscale, blur, solarize. Each operation
equals its namesake in torchvision.transforms.v2.functional (contrast.pixels has them).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from contrast.pixels import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blend,
    crop_and_flip,
    gaussian_blur,
    solarize,
    to_floats,
    to_gray,
)
from shards.numbers import check_number

CPU_CHUNK = 64
CROP_ATTEMPTS = 10
"""Crops that are drawn for a sample until one lies within the image, as many as torchvision draws."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly images are changed. The defaults are SimCLR's for CIFAR-10, where crops go down to 0.08."""

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
    blur: float = 0.0
    """Probability of a Gaussian blur; SimCLR's kernel, a tenth of the image's side, odd, 3 pixels at least."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """The standard deviation of the blur in pixels is uniform in between."""
    solarize: float = 0.0
    """Probability that values from one half upwards are inverted (BYOL)."""

    def __post_init__(self) -> None:
        for name, highest in (("crop_scale", 1.0), ("crop_ratio", math.inf), ("blur_sigma", math.inf)):
            try:
                low, high = (check_number(name, value, 0, highest, such_as="0.5") for value in getattr(self, name))
            except TypeError:
                raise ValueError(f"{name.replace('_', '-')} {getattr(self, name)}: give two numbers") from None
            if not 0 < low <= high:
                raise ValueError(f"{name.replace('_', '-')} {low}:{high}: give two numbers with 0 < low <= high")
            object.__setattr__(self, name, (low, high))
        for name, highest in (
            *((name, 1.0) for name in ("flip", "jitter", "gray", "blur", "solarize")),
            *(("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)),
        ):
            object.__setattr__(self, name, check_number(name, getattr(self, name), 0, highest, such_as="0.2"))


FIELD_OF_WORD = {
    "crop": "crop_scale", "ratio": "crop_ratio", "flip": "flip", "jitter": "jitter", "brightness": "brightness",
    "contrast": "contrast", "saturation": "saturation", "hue": "hue", "gray": "gray", "blur": "blur",
    "sigma": "blur_sigma", "solarize": "solarize",
}  # fmt: skip
"""What --augment calls the fields of AugmentConfig."""


def parse_augment(text: str) -> AugmentConfig:
    """The defaults, changed where the text says so: crop=0.2:1,blur=0.5,solarize=0.

    Raises:
        ValueError: a word is unknown or given twice, or its value does not fit.
    """
    chosen: dict[str, float | tuple[float, float]] = {}
    for part in text.split(","):
        word, _, value = part.strip().partition("=")
        field = FIELD_OF_WORD.get(word)
        if field is None:
            raise ValueError(f"--augment {text}: unknown {word!r}; write WORD=VALUE with {', '.join(FIELD_OF_WORD)}")
        if field in chosen:
            raise ValueError(f"--augment {text}: {word} is given twice; give it once")
        is_range = isinstance(getattr(AugmentConfig, field), tuple)
        try:
            numbers = tuple(float(number) for number in value.split(":"))
        except ValueError:
            numbers = ()
        if len(numbers) != (2 if is_range else 1):
            example = f"{word}=0.2:1" if is_range else f"{word}=0.5"
            raise ValueError(f"--augment {text}: {word} takes {'two numbers' if is_range else 'a number'}: {example}")
        chosen[field] = (numbers[0], numbers[1]) if is_range else numbers[0]
    try:
        return AugmentConfig(**chosen)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"--augment {text}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class AugmentDraws:
    """The parameters of one batch, a row per sample; all float32 but `flip` and `solarize`, which are bool.

    `top`, `left`, `height`, `width` are shares of the image's side in [0, 1]; `brightness`, `contrast`, `saturation`
    are factors (1 leaves the image as it is), `hue` a shift in [-0.5, 0.5] (0 leaves it), `gray` is 1 or 0, `blur` a
    standard deviation in pixels (0 leaves the image). Blur and solarize are None where no sample is to have them.
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
    blur: Tensor | None = None
    solarize: Tensor | None = None

    def rows(self, first: int, last: int) -> AugmentDraws:
        """Samples first … last - 1."""
        return self._each(lambda values: values[first:last])

    def take(self, rows: Tensor) -> AugmentDraws:
        """The samples of these numbers, int64."""
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device) -> AugmentDraws:
        """The same on another device, in one copy that the host does not wait for."""
        if device.type == "cpu":
            return self
        present = self._present()
        packed = torch.stack([values.float() for values in present.values()])
        if device.type == "cuda":
            packed = packed.pin_memory()
        rows = zip(present.items(), packed.to(device, non_blocking=True), strict=True)
        return AugmentDraws(**{name: row.to(values.dtype) for (name, values), row in rows})

    def _each(self, change: Callable[[Tensor], Tensor]) -> AugmentDraws:
        return AugmentDraws(**{name: change(values) for name, values in self._present().items()})

    def _present(self) -> dict[str, Tensor]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: values for name, values in fields.items() if values is not None}


Transform = Callable[[Tensor, AugmentDraws], Tensor]
"""uint8 [B, H, W, 3] and their parameters to float32 [B, 3, H, W]."""


def draw_augmentation(config: AugmentConfig, *, count: int, seed: int, step: int) -> AugmentDraws:
    """Parameters for the `count` samples of the global batch of a step; a function of the arguments alone.

    Distributed as torchvision's RandomResizedCrop, ColorJitter (in a fixed order) and so on draw them; only that the
    sides and the place of a crop are not rounded to pixels. Whoever changes what is drawn raises
    `contrast.run_folder.FORMAT`.
    """
    digest = hashlib.sha256(f"augment/{seed}/{step}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    height, width, is_centred = _draw_crop_sides(config, _draw_uniform(generator, 2, CROP_ATTEMPTS, count))
    uniform = _draw_uniform(generator, 12, count)
    top, left, flip, jitter, brightness, contrast, saturation, hue, gray, blur, sigma, solarize = uniform
    jittered = jitter < config.jitter

    def factor(row: Tensor, strength: float) -> Tensor:
        return torch.where(jittered, 1 + (2 * row - 1) * strength, torch.ones(()))

    return AugmentDraws(
        top=torch.where(is_centred, 0.5, top) * (1 - height),
        left=torch.where(is_centred, 0.5, left) * (1 - width),
        height=height,
        width=width,
        flip=flip < config.flip,
        brightness=factor(brightness, config.brightness),
        contrast=factor(contrast, config.contrast),
        saturation=factor(saturation, config.saturation),
        hue=torch.where(jittered, (2 * hue - 1) * config.hue, torch.zeros(())),
        gray=(gray < config.gray).float(),
        blur=torch.where(blur < config.blur, _between(config.blur_sigma, sigma), torch.zeros(()))
        if config.blur > 0
        else None,
        solarize=solarize < config.solarize if config.solarize > 0 else None,
    )


def _draw_uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float32, device="cpu")


def _draw_crop_sides(config: AugmentConfig, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Height and width as shares of the image's side, and whether the crop is to lie in the centre; [B] each.

    Inception's crop (Szegedy et al. 2015), area and log ratio uniform, as torchvision draws it: again until it lies
    within the image; where no attempt does, the largest crop with a ratio that is allowed, in the centre.

    Args:
        uniform: [2, attempts, B] in [0, 1).
    """
    area = _between(config.crop_scale, uniform[0])
    low, high = config.crop_ratio
    ratio = _exactly(np.exp, _between((math.log(low), math.log(high)), uniform[1]).double()).float()
    fits = (area <= ratio) & (area * ratio <= 1)
    attempt = fits.int().argmax(dim=0, keepdim=True)  # the first that fits
    area, ratio, fits = (values.gather(0, attempt)[0] for values in (area, ratio, fits))
    nearest_ratio = min(max(1.0, low), high)
    height = torch.where(fits, _exactly(np.sqrt, area / ratio), min(1.0, 1 / nearest_ratio))
    width = torch.where(fits, _exactly(np.sqrt, area * ratio), min(1.0, nearest_ratio))
    return height.clamp(max=1.0), width.clamp(max=1.0), ~fits


def _between(bounds: tuple[float, float], uniform: Tensor) -> Tensor:
    low, high = bounds
    return low + uniform * (high - low)


def _exactly(function: Callable[[ndarray], ndarray], values: Tensor) -> Tensor:
    """numpy's function of the values: torch takes some from a library whose last bits differ between makes of CPU."""
    return torch.from_numpy(function(values.numpy()))


def augment(pixels: Tensor, draws: AugmentDraws, *, operations: Transform | None = None) -> Tensor:
    """Augmented images, [B, 3, H, W] float32 in [0, 1], from uint8 [B, H, W, 3] on the device of the pixels.

    Args:
        operations: what is done to a chunk; `compile_operations` gives it in a faster form.
    """
    operations = operations or _augment
    if pixels.device.type == "cpu" and len(pixels) > CPU_CHUNK:
        # Every operation below walks over all pixels; a chunk stays in the cache between them (twice as fast).
        firsts = range(0, len(pixels), CPU_CHUNK)
        return torch.cat([operations(pixels[i : i + CPU_CHUNK], draws.rows(i, i + CPU_CHUNK)) for i in firsts])
    return operations(pixels, draws)


def compile_operations(*, backend: str = "inductor") -> Transform:
    """The operations of `augment` through torch.compile: equal but for rounding, compiled per shape when first called.

    Raises:
        ValueError: there is no compiler for the CPU.
    """
    if backend == "inductor" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise ValueError("--compile needs a C++ compiler: install g++, or omit --compile")
    return torch.compile(_augment, fullgraph=True, dynamic=False, backend=backend)


def keep_pixels(pixels: Tensor, draws: AugmentDraws) -> Tensor:
    """The images as they are, in the form of `augment`."""
    return to_floats(pixels)


def _augment(pixels: Tensor, draws: AugmentDraws) -> Tensor:
    images = crop_and_flip(to_floats(pixels), draws.top, draws.left, draws.height, draws.width, draws.flip)
    images = adjust_brightness(images, draws.brightness)
    images = adjust_contrast(images, draws.contrast)
    images = adjust_saturation(images, draws.saturation)
    images = adjust_hue(images, draws.hue)
    images = blend(images, to_gray(images), 1 - draws.gray)
    if draws.blur is not None:
        images = gaussian_blur(images, draws.blur)
    return images if draws.solarize is None else solarize(images, draws.solarize)
