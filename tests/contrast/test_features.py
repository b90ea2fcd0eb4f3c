"""Features of a frozen encoder and of raw pixels: what they are, and what the cache knows them by."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from contrast.encoders import Encoder, build_encoder
from contrast.evaluation import features
from contrast.evaluation.features import (
    cached_features,
    extract_features,
    pixel_features,
    shrink_by_area,
    weights_sha256,
)
from contrast.images import LabelledImages

CPU = torch.device("cpu")


def some_images(count: int = 30) -> LabelledImages:
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 16, 16, 3), dtype=np.uint8)
    return LabelledImages(
        name="noise", pixels=pixels, labels=np.zeros(count, np.int64), class_names=("a",), is_real=True
    )


def test_features_come_from_the_frozen_backbone() -> None:
    encoder = build_encoder("convnet-small", image_size=16).train()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    images = some_images()
    features = extract_features(encoder, images.pixels, device=CPU, precision="float32")
    assert features.shape == (30, 512) and features.dtype == np.float32
    assert encoder.training  # as it came
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    alone = extract_features(encoder, images.pixels[:1], device=CPU, precision="float32")
    np.testing.assert_allclose(alone, features[:1], atol=1e-5)  # no statistic of the batch is in it
    encoder.eval()
    inputs = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).float() / 255
    np.testing.assert_allclose(features, encoder(inputs).detach().numpy(), atol=1e-5)


def test_features_are_cached_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, images: (calls.append(len(images)), forward(self, images))[1])
    encoder, images = build_encoder("convnet-small", image_size=16), some_images()
    first = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    again = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    assert calls == [30] and np.array_equal(first, again)
    with torch.no_grad():
        next(encoder.parameters())[0, 0, 0, 0] += 1  # one weight of a million
    changed = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    assert calls == [30, 30] and not np.array_equal(first, changed)
    other = dataclasses.replace(images, pixels=images.pixels ^ 1)
    cached_features(encoder, other, folder=tmp_path, device=CPU, precision="float32")
    assert len(calls) == 3
    for number, place in enumerate((0, 70, 1500, None)):  # the second one makes numpy begin too early
        for path in tmp_path.iterdir():
            data = bytearray(path.read_bytes())
            if place is None:
                del data[50:]
            else:
                data[place] ^= 0x10
            path.write_bytes(data)
        recomputed = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
        assert np.array_equal(recomputed, changed) and len(calls) == 4 + number, "damaged copies are computed again"
    for module, name, value in ((features, "SCALE", 1.0), (features, "SHIFT", 0.0), (torch, "__version__", "0.1")):
        with monkeypatch.context() as other_version:
            other_version.setattr(module, name, value)
            cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    cached_features(encoder, images, folder=tmp_path, device=CPU, precision="float32")
    assert len(calls) == 10
    rounded = cached_features(encoder, images, folder=tmp_path, device=CPU, precision="bfloat16")
    assert len(calls) == 11 and not np.array_equal(rounded, changed)


def test_encoders_of_other_layers_are_others_though_their_weights_are_the_same() -> None:
    one, other = (nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh()))
    assert weights_sha256(one) == weights_sha256(nn.Sequential(nn.ReLU())) != weights_sha256(other)


def test_pixels_are_compared_by_correlation() -> None:
    pixels = some_images(4).pixels // 2
    features, brighter = pixel_features(pixels), pixel_features(pixels + 100)
    assert features.shape == (4, 16 * 16 * 3)
    np.testing.assert_allclose(features, brighter, atol=1e-6)
    np.testing.assert_allclose(features.mean(axis=1), 0, atol=1e-6)


def test_pixels_of_large_images_are_box_averages_of_32_px() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    boxes = (
        np.array(
            [
                [image[y : y + 4, x : x + 4].mean(axis=(0, 1)) for y in range(0, 128, 4) for x in range(0, 128, 4)]
                for image in pixels.astype(np.float64)
            ]
        ).reshape(3, 3072)
        / 255
    )
    features = pixel_features(pixels)
    assert features.shape == (3, 3072) and features.dtype == np.float32
    np.testing.assert_allclose(features, boxes - boxes.mean(axis=1, keepdims=True), atol=1e-6)
    many = np.concatenate([pixels] * 200)  # more than a block
    np.testing.assert_allclose(pixel_features(many)[-3:], features, atol=1e-6)


@pytest.mark.parametrize("size", [48, 33])
def test_where_no_whole_number_of_pixels_fits_parts_of_them_count(size: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    finer = pixels.repeat(32, axis=1).repeat(32, axis=2)  # [2, 32 * size, 32 * size, 3]: now whole boxes of size px do
    boxes = finer.reshape(2, 32, size, 32, size, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(shrink_by_area(pixels, 32), boxes, atol=1e-3)


@pytest.mark.parametrize("size", [16, 32])
def test_pixels_up_to_32_px_are_taken_as_they_are(size: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    flat = pixels.reshape(5, -1).astype(np.float32) / 255
    assert np.array_equal(pixel_features(pixels), flat - flat.mean(axis=1, keepdims=True))
