"""The built-in generator's opponent, and the augmentation that keeps it from learning the training images by heart.

discriminator = Discriminator(trunk="residual", width=192, num_classes=10)
discriminator.spectral.normalise()                    # after every change of the weights
verdict, classes = discriminator(augment_differentiably(images), labels)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from builtin_networks import SpectralWeights
from torch import Tensor, nn


class ResidualDown(nn.Module):
    """Residual block of the discriminator: two 3x3 convolutions, halving the map when `down`.

    A convolution and the mean over 2x2 pixels after it are one convolution of stride 2 with a wider kernel, at less
    than half the arithmetic; the skip's mean and 1x1 convolution likewise.
    """

    def __init__(self, in_channels: int, out_channels: int, *, down: bool, first: bool = False) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv_0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if down or in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv_0(x if self.first else F.relu(x)))
        if not self.down:
            return self.conv_1(out) + (x if self.skip is None else self.skip(x))
        assert self.skip is not None
        out = F.conv2d(out, mean_kernel(self.conv_1.weight), self.conv_1.bias, stride=2, padding=1)
        return out + F.conv2d(x, mean_kernel(self.skip.weight), self.skip.bias, stride=2)


def mean_kernel(weight: Tensor) -> Tensor:
    """The kernel [O, I, k+1, k+1] that does a convolution [O, I, k, k] and the mean of 2x2 neighbours in one go."""
    wide = F.pad(weight, (1, 1, 1, 1))
    mean = (wide[:, :, 1:, 1:] + wide[:, :, :-1, 1:] + wide[:, :, 1:, :-1] + wide[:, :, :-1, :-1]) / 4
    return mean.contiguous(memory_format=torch.channels_last)


def residual_trunk(width: int) -> tuple[nn.Module, int]:
    """Four residual blocks of one width (Miyato and Koyama 2018); maps [B, width, 8, 8]."""
    blocks = nn.Sequential(
        ResidualDown(3, width, down=True, first=True),
        ResidualDown(width, width, down=True),
        ResidualDown(width, width, down=False),
        ResidualDown(width, width, down=False),
        nn.ReLU(),
    )
    return blocks, width


def strided_trunk(width: int) -> tuple[nn.Module, int]:
    """Four convolutions, three of them strided, a fifth of the arithmetic; maps [B, 8 * width, 4, 4]."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.LeakyReLU(0.1)]
    for factor in (1, 2, 4):
        layers += [nn.Conv2d(factor * width, 2 * factor * width, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers), 8 * width


TRUNKS = {"residual": residual_trunk, "strided": strided_trunk}


class Discriminator(nn.Module):
    """Projection discriminator for 32 px images (Miyato and Koyama 2018) that also names the class.

    The class head (Odena et al. 2017) teaches the trunk what the classes look like early,
    when the adversarial loss teaches little.
    """

    def __init__(self, *, trunk: str, width: int, num_classes: int) -> None:
        super().__init__()
        self.trunk, features = TRUNKS[trunk](width)
        self.real = nn.Linear(features, 1)
        self.embedding = nn.Embedding(num_classes, features)
        self.classes = nn.Linear(features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
                nn.init.orthogonal_(module.weight)
        self.spectral = SpectralWeights(self, skip=(self.classes,))

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B], positive for real, of images [B, 3, 32, 32] under labels [B], and class logits [B, C].

        Weights as last normalised.
        """
        maps = self.trunk(images).float()
        features = maps.sum((2, 3))
        verdict = self.real(features).squeeze(1) + (self.embedding(labels) * features).sum(1)
        return verdict, self.classes(features)


def augment_differentiably(images: Tensor) -> Tensor:
    """DiffAugment's translation and cutout (Zhao et al. 2020), drawn per sample, with gradient to the images.

    Translation by up to an eighth of the side with zeros moving in; a square of half the side is cut out.
    """
    batch, _, side, _ = images.shape
    device = images.device
    reach, half = side // 8, side // 4
    position = torch.arange(side, device=device)
    shift = torch.randint(-reach, reach + 1, (2, batch, 1, 1), device=device)
    # Row i of a shift matrix picks row i + shift; a product with 0/1 matrices is exact and its gradient cheap,
    # where indexing would sort in the backward pass.
    pick_rows, pick_columns = (position + shift == position[:, None]).to(images.dtype).unbind(0)
    moved = pick_rows[:, None].mT @ images @ pick_columns[:, None]
    centre = torch.randint(0, side + 1, (2, batch, 1), device=device)
    outside = ((position - centre[0]).abs()[:, :, None] >= half) | ((position - centre[1]).abs()[:, None, :] >= half)
    return moved * outside[:, None].to(moved.dtype)
