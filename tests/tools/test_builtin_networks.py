"""The networks that the built-in generator is trained with, against plain formulas and the published module."""

from __future__ import annotations

import copy

import builtin_networks as networks
import pytest
import torch
import torch.nn.functional as F
from discriminator import TRUNKS, Discriminator, augment_differentiably, mean_kernel
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from torch import nn

TINY = {**networks.generator_config("small"), "channel_width": 8, "n_stats": 3}


@pytest.fixture
def generator() -> networks.TrainableBigGAN:
    torch.manual_seed(0)
    generator = networks.TrainableBigGAN(TINY)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # attention and last offset start at zero
        generator.spectral.normalise(iterations=300)
    return generator


def published_module(state: dict[str, torch.Tensor]) -> BigGAN:
    network = BigGAN(BigGANConfig.from_dict(TINY))
    for module in network.modules():
        if hasattr(module, "weight_orig"):
            nn.utils.remove_spectral_norm(module)
    for name, tensor in state.items():
        owner = network.get_submodule(name.rpartition(".")[0])
        getattr(owner, name.rpartition(".")[2]).data.copy_(tensor)
    assert set(network.state_dict()) == set(state)
    return network.eval()


def test_normalised_weights_have_unit_spectral_norm(generator: networks.TrainableBigGAN) -> None:
    layers = [layer for layers in generator.spectral.groups for layer in layers]
    assert len(layers) > 20
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=2e-3)
        assert torch.linalg.matrix_norm(layer.weight_orig.flatten(1), ord=2).item() != pytest.approx(1, abs=2e-3)
    assert generator.embeddings not in layers


def test_gradient_of_normalised_weights_is_that_of_the_quotient(generator: networks.TrainableBigGAN) -> None:
    layer = generator.generator.layers[0].conv_1
    generator.spectral.normalise(iterations=300)
    layer.weight.square().mul(torch.arange(layer.weight.numel()).view_as(layer.weight)).sum().backward()
    found = layer.weight_orig.grad
    original = layer.weight_orig.detach().double().requires_grad_()
    quotient = original / torch.linalg.matrix_norm(original.flatten(1), ord=2)
    quotient.square().mul(torch.arange(quotient.numel()).view_as(quotient)).sum().backward()
    torch.testing.assert_close(found.double(), original.grad, rtol=1e-2, atol=1e-2 * original.grad.abs().max().item())


def test_the_exported_generator_is_the_trained_one(generator: networks.TrainableBigGAN) -> None:
    draw = torch.Generator().manual_seed(0)
    latents = networks.truncated_normal(200, 128, device=torch.device("cpu"), generator=draw)
    one_hot = F.one_hot(torch.arange(200) % 10, 10).float()
    with torch.no_grad():
        trained = generator(latents, one_hot)
        draw = torch.Generator().manual_seed(0)  # the statistics of the very same batch
        options = {"samples_per_row": 200, "batch_size": 200, "draw_latents": draw}
        state = networks.export_generator(copy.deepcopy(generator), **options)
        recorded = {name: tensor for name, tensor in state.items() if name.endswith("running_means")}
        assert all(not torch.equal(rows[0], rows[-1]) for rows in recorded.values())
        torch.manual_seed(0)
        published = published_module(state)(latents, one_hot, 1.0)
    # Rows are recorded on other draws of 200 latents, so the two agree as far as 200 samples pin a mean.
    assert (published - trained).abs().mean() < 0.15 * trained.std()
    shuffled = published.roll(1, dims=0)
    assert (shuffled - trained).abs().mean() > 4 * (published - trained).abs().mean()


def test_recorded_statistics_are_those_of_all_batches(generator: networks.TrainableBigGAN) -> None:
    norm = generator.generator.bn
    norm.recording = True
    maps = torch.randn(3, 6, norm.weight.numel(), 4, 4) * 3 + 1
    for batch in maps:
        norm(batch, 1.0)
    mean, variance = norm.recorded_statistics()
    flat = maps.flatten(0, 1).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(mean.double(), flat.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance.double(), flat.var(1, unbiased=False), rtol=1e-5, atol=1e-6)


def test_differentiable_augmentation_shifts_and_cuts() -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 3, 32, 32) + 0.5
    found = augment_differentiably(images)
    for image, changed in zip(images, found, strict=True):
        padded = F.pad(image, (4, 4, 4, 4))
        kept = changed != 0
        shifts = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if torch.equal(padded[:, y : y + 32, x : x + 32][kept], changed[kept])
        ]
        assert len(shifts) == 1
        y, x = shifts[0]
        removed = (padded[0, y : y + 32, x : x + 32] != 0) & ~kept[0]
        assert removed.sum() <= 15 * 15
    assert (found == 0).any()


def test_differentiable_augmentation_passes_gradients_on() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)

    def augmented(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return augment_differentiably(x)[:, :1, ::8, ::8]

    assert torch.autograd.gradcheck(augmented, (images,), fast_mode=True)


def test_truncated_normal_is_scipys() -> None:
    from scipy import stats

    draws = networks.truncated_normal(20_000, 1, device=torch.device("cpu"), generator=torch.Generator().manual_seed(0))
    assert draws.abs().max() <= 2
    assert stats.kstest(draws.flatten().numpy(), stats.truncnorm(-2, 2).cdf).pvalue > 1e-3
    assert stats.kstest(draws.flatten().numpy(), stats.norm.cdf).pvalue < 1e-6


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_mean_kernel_is_convolution_and_mean(kernel_size: int) -> None:
    torch.manual_seed(0)
    maps, weight = torch.randn(2, 3, 8, 8).double(), torch.randn(5, 3, kernel_size, kernel_size).double()
    padding = kernel_size // 2
    expected = F.avg_pool2d(F.conv2d(maps, weight, padding=padding), 2)
    found = F.conv2d(maps, mean_kernel(weight), stride=2, padding=padding)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_discriminator_judges_under_a_label(trunk: str) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(trunk=trunk, width=8, num_classes=10)
    discriminator.spectral.normalise()
    images = torch.randn(4, 3, 32, 32)
    verdict, classes = discriminator(images, torch.tensor([0, 1, 2, 3]))
    other, same_classes = discriminator(images, torch.tensor([4, 5, 6, 7]))
    assert verdict.shape == (4,) and classes.shape == (4, 10)
    assert not torch.allclose(verdict, other)
    assert torch.equal(classes, same_classes)
