"""The folded generator against the published module, and the truncation statistics against their definition."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_pretrained_biggan import BigGAN
from pytorch_pretrained_biggan.model import BigGANBatchNorm
from torch.utils.flop_counter import FlopCounterMode

from synthgen import load_generator
from synthgen.adapters.architecture import PUBLISHED_CONFIGS, check_config, count_flops, count_parameters
from synthgen.adapters.folded_biggan import FoldedBigGAN, truncation_statistics
from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.weight_files import default_class_names
from synthgen.devices import choose_device, choose_dtype

CPU = torch.device("cpu")
LATENTS = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32))
LABELS = torch.arange(20) % 10


@torch.inference_mode()
def published(network: BigGAN, latents: torch.Tensor, labels: torch.Tensor, truncation: float) -> torch.Tensor:
    return network(latents, torch.eye(network.config.num_classes)[labels], truncation)


def fold(network: BigGAN, truncation: float, dtype: torch.dtype = torch.float32) -> FoldedBigGAN:
    return FoldedBigGAN(copy.deepcopy(network), truncation=truncation).place(CPU, dtype)


@pytest.mark.parametrize("truncation", [1.0, 0.5, 0.02])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_layer_position": 3, "channel_width": 16},
        {"layers": [(False, 16, 16), (True, 16, 8), (True, 8, 4), (False, 4, 2), (True, 2, 1)]},
    ],
)
def test_folding_changes_no_image(
    network_maker: Callable[..., BigGAN], changes: dict[str, object], truncation: float
) -> None:
    network = network_maker(**changes)
    expected = published(network, LATENTS, LABELS, truncation)
    assert expected.std() > 0.05 and expected.abs().max() < 1.0, "the comparison would see little"
    with torch.inference_mode():
        images = fold(network, truncation)(LATENTS, LABELS)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, expected, rtol=0, atol=5e-5)


def test_bfloat16_is_close_in_pixels(network_maker: Callable[..., BigGAN]) -> None:
    network = network_maker()
    with torch.inference_mode():
        exact = to_pixels(fold(network, 1.0)(LATENTS, LABELS)).float()
        close = to_pixels(fold(network, 1.0, torch.bfloat16)(LATENTS, LABELS)).float()
    difference = (exact - close).abs()
    assert 0 < difference.mean() < 1.0 and difference.max() <= 12


def test_each_row_is_taken_at_its_own_truncation() -> None:
    """The published package leaves the row at 0.14, 0.28 and 0.58, whose multiples of fifty round."""
    norm = BigGANBatchNorm(4, n_stats=51, conditional=False)
    norm.running_means.copy_(torch.arange(51.0)[:, None].expand(51, 4))
    norm.running_vars.copy_(1 + torch.arange(51.0)[:, None].expand(51, 4) ** 2)
    for row in range(1, 51):
        mean, variance = truncation_statistics(norm, row / 50)
        assert mean.tolist() == [row] * 4
        assert variance.tolist() == [1 + row**2] * 4


def test_between_two_rows_the_nearer_one_weighs_more(network_maker: Callable[..., BigGAN]) -> None:
    """The published package swaps the weights: its statistics at 0.415 are the ones that belong to 0.405."""
    norm = BigGANBatchNorm(1, n_stats=51, conditional=False)
    norm.running_means.copy_(torch.arange(51.0)[:, None])
    assert truncation_statistics(norm, 0.415)[0].item() == pytest.approx(20.75)
    assert truncation_statistics(norm, 0.01)[0].item() == pytest.approx(0.5)

    network = network_maker()
    with torch.inference_mode():
        ours = fold(network, 0.415)(LATENTS, LABELS)
    swapped = published(network, LATENTS, LABELS, 0.405)
    torch.testing.assert_close(ours, swapped, rtol=0, atol=2e-4)
    assert (ours - published(network, LATENTS, LABELS, 0.415)).abs().max() > 0.01


def test_bits_do_not_depend_on_threads_or_on_what_came_before(tiny_weights: Path) -> None:
    before = torch.get_num_threads()
    digests = set()
    try:
        for dtype in ("float32", "bfloat16"):
            generator = load_generator(weights=tiny_weights, dtype=dtype, device="cpu")
            digests.clear()
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                generator.render(LATENTS.flip(0), LABELS)
                digests.add(hashlib.sha256(generator.render(LATENTS, LABELS).numpy().tobytes()).hexdigest())
            assert len(digests) == 1, dtype
    finally:
        torch.set_num_threads(before)


def test_generator_describes_itself(tiny_weights: Path) -> None:
    generator = load_generator("biggan-deep-32", weights=tiny_weights, device="cpu")
    assert (generator.name, generator.image_size, generator.latent_dim, generator.num_classes) == (
        "biggan-deep-32",
        32,
        16,
        10,
    )
    assert generator.class_names[3] == "cat"
    weights = tiny_weights / "biggan-deep-32.safetensors"
    assert generator.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    pixels = generator.render(LATENTS, LABELS)
    assert pixels.shape == (20, 32, 32, 3) and pixels.dtype == torch.uint8
    assert generator.render(LATENTS, LABELS, size=20).shape == (20, 20, 20, 3)
    assert (generator.render(LATENTS, (LABELS + 1) % 10) != pixels).any(), "labels are heard"


def test_pixels_are_rounded_to_the_nearest_level_and_clamped() -> None:
    levels = torch.tensor([-1.0, 1.0, 0.0, 1.2, -3.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1])
    images = levels[:, None, None, None].expand(-1, 3, 2, 2)
    assert to_pixels(images)[:, 0, 0, 0].tolist() == [0, 255, 128, 255, 0, 0, 1]


def test_another_size_is_antialiased_before_rounding() -> None:
    """A checkerboard of single pixels, halved, becomes flat grey; plain sampling would give its black or its white."""
    board = torch.ones(32, 32)
    board[::2, ::2] = board[1::2, 1::2] = -1.0
    small = to_pixels(board.expand(1, 3, 32, 32), size=16)
    assert small.shape == (1, 16, 16, 3)
    assert (small[:, 2:-2, 2:-2].float() - 127.5).abs().max() <= 1
    assert to_pixels(board.expand(1, 3, 32, 32), size=48).shape == (1, 48, 48, 3)


@pytest.mark.parametrize("changes", [{}, {"attention_layer_position": 3, "channel_width": 16}])
def test_counted_parameters_and_flops(network_maker: Callable[..., BigGAN], changes: dict[str, object]) -> None:
    network = network_maker(**changes)
    config = network.config.to_dict()
    check_config(config)
    assert count_parameters(config) == sum(parameter.numel() for parameter in network.parameters())
    folded = fold(network, 1.0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        folded(LATENTS[:1], LABELS[:1])
    assert counter.get_total_flops() == count_flops(config)


def test_published_sizes() -> None:
    millions = {name: round(count_parameters(config) / 1e6, 1) for name, config in PUBLISHED_CONFIGS.items()}
    assert millions == {"biggan-deep-128": 50.4, "biggan-deep-256": 55.9, "biggan-deep-512": 56.2}
    for config in PUBLISHED_CONFIGS.values():
        check_config(config)


def test_class_names_by_default() -> None:
    assert default_class_names(1000)[207] == "golden retriever"
    assert default_class_names(3) == ("0", "1", "2")


def test_wrong_devices_and_dtypes_are_named() -> None:
    assert choose_device("cpu") == CPU
    with pytest.raises(ValueError, match="give auto, cpu, cuda"):
        choose_device("abacus")
    with pytest.raises(ValueError, match="this machine has"):
        choose_device("cuda:99")
    with pytest.raises(ValueError, match="give one of auto, float32, bfloat16"):
        choose_dtype("int4", CPU)
