"""Shapes and stems of the encoders."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from contrast.encoders import ENCODERS, build_encoder, check_encoder, count_parameters
from contrast.network import synchronise_batch_norm


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
    with pytest.raises(ValueError, match=r"unknown encoder 'resnet81' \(near: resnet18\): choose one of"):
        build_encoder("resnet81", image_size=32)


def test_near_names_of_the_libraries() -> None:
    with pytest.raises(ValueError, match=r"torchvision has none of that name; near: torchvision:resnet34"):
        check_encoder("torchvision:resnet43")
    with pytest.raises(ValueError, match=r"unknown library 'keras' .*: use one of torchvision, timm"):
        check_encoder("keras:resnet50")
    with pytest.raises(ValueError, match=r"timm has none of that name; near: .*timm:vit_tiny_patch16_224"):
        check_encoder("timm:vit_tny_patch16_224")


def test_timm_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm is not installed: pip install -e '\.\[timm\]' in the clone"):
        check_encoder("timm:resnet10t")


@pytest.mark.parametrize(
    ("name", "image_size", "feature_dim"),
    [
        ("torchvision:resnet34", 32, 512),
        ("torchvision:mobilenet_v3_small", 32, 1024),
        ("torchvision:vit_b_16", 32, 768),
        ("torchvision:shufflenet_v2_x0_5", 64, 1024),
        ("torchvision:googlenet", 32, 1024),
        ("torchvision:inception_v3", 80, 2048),
        ("timm:vit_tiny_patch16_224", 32, 192),
        ("timm:resnet18", 32, 512),
        ("timm:resnet18", 96, 512),
    ],
)
def test_encoders_of_the_libraries(name: str, image_size: int, feature_dim: int) -> None:
    pytest.importorskip(name.partition(":")[0])
    torch.manual_seed(0)
    encoder = build_encoder(name, image_size=image_size)
    features = encoder(torch.rand(2, 3, image_size, image_size))
    assert features.shape == (2, feature_dim) == (2, encoder.feature_dim)
    features.sum().backward()  # every weight that is left is used
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    torch.manual_seed(0)
    again = build_encoder(name, image_size=image_size)
    assert all(torch.equal(one, other) for one, other in zip(encoder.parameters(), again.parameters(), strict=True))
    if "resnet" in name:
        assert encoder.backbone.conv1.kernel_size == ((3, 3) if image_size == 32 else (7, 7))


def test_the_librarys_resnet18_is_ours() -> None:
    torch.manual_seed(0)
    ours = build_encoder("resnet18", image_size=32).state_dict()
    torch.manual_seed(0)
    theirs = build_encoder("torchvision:resnet18", image_size=32).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and ours.keys() == theirs.keys()


def test_synchronised_batch_norm_keeps_weights_and_names() -> None:
    """What --sync-batchnorm does on GPUs must leave the optimiser's parameters and the checkpoint's names alone."""
    encoder = build_encoder("resnet18", image_size=32)
    names, parameters = list(encoder.state_dict()), list(encoder.parameters())
    converted = synchronise_batch_norm(encoder)
    assert converted is encoder and list(encoder.state_dict()) == names
    assert all(one is other for one, other in zip(encoder.parameters(), parameters, strict=True))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in encoder.modules())


@pytest.mark.parametrize("name", ["timm:mobilenetv3_small_050", "timm:regnetx_002", "timm:resnet18", "resnet18"])
def test_synchronised_batch_norm_keeps_what_the_network_computes(name: str) -> None:
    """Some of timm's norms apply an activation, which torch's own conversion leaves away."""
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoder = build_encoder(name, image_size=32).eval()
    names, expected = list(encoder.state_dict()), encoder(images)
    converted = synchronise_batch_norm(encoder)
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    torch.testing.assert_close(converted(images), expected)
    assert list(converted.state_dict()) == names


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder torchvision:alexnet does not take images of 32 px \(.*\): choose"):
        build_encoder("torchvision:alexnet", image_size=32)
    with pytest.raises(ValueError, match=r"encoder torchvision:inception_v3 does not take images of 32 px"):
        build_encoder("torchvision:inception_v3", image_size=32)
    with pytest.raises(ValueError, match=r"squeezenet1_1 does not take .* \(nor of another size: it has no linear"):
        build_encoder("torchvision:squeezenet1_1", image_size=32)
