"""Encoders: images in [0, 1] to features. Small inputs get the stem that keeps their resolution.

encoder = build_encoder("resnet18", image_size=32)
features = encoder(images)            # [B, 3, 32, 32] -> [B, 512]
"""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn

from contrast.backbones import build_backbone, check_backbone_name, split_name

# What the backbone sees has roughly zero mean and unit variance for natural images. In the usual (images - mean) / std:
# mean SHIFT / SCALE = 0.5 and std 1 / SCALE = 0.25 in every channel.
SCALE, SHIFT = 4.0, 2.0

_ALIASES = {"resnet18": "torchvision:resnet18", "resnet50": "torchvision:resnet50"}
ENCODERS = ("convnet-small", *_ALIASES)
"""Names of encoders, beside torchvision:NAME and timm:NAME."""


class Encoder(nn.Module):
    """A backbone with its input scaling. `feature_dim` is the width of what it returns.

    The scaling is part of the encoder, so that training, evaluation and export cannot disagree about it.
    """

    def __init__(self, backbone: nn.Module, *, feature_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_dim = feature_dim

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] to [B, feature_dim]."""
        return self.backbone(images * SCALE - SHIFT)


def check_encoder(name: str) -> None:
    """Raises ValueError when there is no encoder of that name: one of ENCODERS, torchvision:NAME or timm:NAME."""
    if split_name(name) is not None:
        check_backbone_name(name)
    elif name not in ENCODERS:
        near = difflib.get_close_matches(name, ENCODERS, n=1)
        raise ValueError(
            f"unknown encoder {name!r}{f' (near: {near[0]})' if near else ''}: "
            f"choose one of {', '.join(ENCODERS)}, torchvision:NAME, timm:NAME"
        )


def build_encoder(name: str, *, image_size: int) -> Encoder:
    """A freshly initialised encoder; its weights come from torch's global generator.

    Raises:
        ValueError: there is no encoder of that name, or it does not take images of this size.
    """
    check_encoder(name)
    if name == "convnet-small":
        return _convnet_small()
    backbone, feature_dim = build_backbone(_ALIASES.get(name, name), image_size=image_size)
    return Encoder(backbone, feature_dim=feature_dim)


def check_encoder_fits(name: str, *, image_size: int) -> None:
    """Raises ValueError when a library's encoder does not take images of this size: it is built once to see."""
    if split_name(name) is not None:
        with torch.random.fork_rng(devices=[]):
            build_backbone(name, image_size=image_size)


def _convnet_small() -> Encoder:
    """Five 3x3 convolutions, 1.6 M parameters, 19 million multiply-adds at 32 px.

    Halves the resolution first: a layer at the full 32 px costs more than it gives at this size.
    """
    layers: list[nn.Module] = []
    channels_in = 3
    for channels, stride in ((32, 2), (64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [
            nn.Conv2d(channels_in, channels, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        ]
        channels_in = channels
    return Encoder(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), feature_dim=channels_in)


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def to_encoder_layout(images: Tensor) -> Tensor:
    """The same images in channels_last memory, which the convolutions are fastest in on CPUs and GPUs alike."""
    return images.contiguous(memory_format=torch.channels_last)
