"""Shapes and stems of the encoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from contrast.encoders import ENCODERS, build_encoder, count_parameters


@pytest.mark.parametrize(("name", "feature_dim"), [("convnet-small", 512), ("resnet18", 512), ("resnet50", 2048)])
def test_features_have_the_promised_width(name: str, feature_dim: int) -> None:
    encoder = build_encoder(name, image_size=32).eval()
    with torch.inference_mode():
        features = encoder(torch.rand(2, 3, 32, 32))
    assert features.shape == (2, feature_dim) == (2, encoder.feature_dim)
    assert not any(isinstance(module, nn.Linear) for module in encoder.modules())  # the classifier is gone


def test_small_images_keep_their_resolution() -> None:
    small, large = (build_encoder("resnet18", image_size=size).backbone for size in (32, 128))
    assert (small.conv1.kernel_size, small.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(small.maxpool, nn.Identity)
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(large.maxpool, nn.MaxPool2d)


def test_parameter_counts() -> None:
    assert count_parameters(build_encoder("convnet-small", image_size=32)) == 1_569_568
    assert (
        count_parameters(build_encoder("resnet18", image_size=32)) == 11_168_832
    )  # 11.17 M, CIFAR stem, no classifier


def test_an_unknown_encoder_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"unknown encoder 'vgg': choose one of {', '.join(ENCODERS)}"):
        build_encoder("vgg", image_size=32)
