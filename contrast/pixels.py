"""The operations of the augmentation: each on a whole batch, with a parameter per sample, on the batch's device.

    images = gaussian_blur(images, torch.tensor([0.0, 1.5]))     # [2, 3, H, W]: the second one blurred

Images are [B, 3, H, W] float32 in [0, 1]. Each operation equals its namesake in torchvision.transforms.v2.functional,
which has one parameter for the whole batch; `contrast.augment` draws the parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601-2, with torchvision's digits
SOLARIZE_THRESHOLD = 0.5


def to_floats(pixels: Tensor) -> Tensor:
    """The images as they are, [B, 3, H, W] float32 in [0, 1], from uint8 [B, H, W, 3]."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)


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
    return blend(images, to_gray(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Images moved away from their own gray by a [B] factor, cut to [0, 1]."""
    return blend(images, to_gray(images), factor)


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


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Images blurred with a [B] standard deviation in pixels, reflected at the border; 0 leaves them.

    Blurring along one side is linear too, so it is a matrix per sample, like the crop.
    """
    columns = _blur_matrices(sigma, images.shape[3])  # [B, W, W]
    rows = _blur_matrices(sigma, images.shape[2])  # [B, H, H]
    batch, channels, height, width = images.shape
    blurred = torch.bmm(images.reshape(batch, channels * height, width), columns.mT)
    return torch.matmul(rows[:, None], blurred.view(batch, channels, height, width))


def blur_kernel_size(size: int) -> int:
    """Pixels of the blur's kernel along a side of `size` pixels: a tenth, made odd, 3 at least."""
    return max(3, size // 10 | 1)


def _blur_matrices(sigma: Tensor, size: int) -> Tensor:
    """[B, size, size] weights of a Gaussian of `blur_kernel_size(size)` taps; the identity where sigma is 0."""
    radius = blur_kernel_size(size) // 2
    taps = torch.arange(-radius, radius + 1, device=sigma.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * (taps / sigma.clamp(min=1e-6)[:, None]) ** 2)  # [B, taps]: only the centre at sigma 0
    weights = weights / weights.sum(dim=1, keepdim=True)
    outputs = torch.arange(size, device=sigma.device)[:, None]
    inputs = (outputs + torch.arange(-radius, radius + 1, device=sigma.device)).abs()  # [size, taps], reflected
    inputs = torch.where(inputs >= size, 2 * (size - 1) - inputs, inputs)
    matrices = torch.zeros(len(sigma), size, size, device=sigma.device)
    return matrices.scatter_add_(2, inputs.expand(len(sigma), -1, -1), weights[:, None].expand(-1, size, -1))


def solarize(images: Tensor, chosen: Tensor) -> Tensor:
    """Images whose values from one half upwards are inverted where the [B] bool says so."""
    return torch.where(chosen[:, None, None, None] & (images >= SOLARIZE_THRESHOLD), 1 - images, images)


def to_gray(images: Tensor) -> Tensor:
    """[B, 1, H, W] luma of [B, 3, H, W]."""
    red, green, blue = GRAY_WEIGHTS
    return (red * images[:, 0] + green * images[:, 1] + blue * images[:, 2])[:, None]


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """A [B] factor of the images and the rest of the other ones, cut to [0, 1]."""
    factor = factor[:, None, None, None]
    return (factor * images + (1 - factor) * other).clamp_(0, 1)
