"""BigGAN-deep for one truncation, with everything that does not depend on the latent computed once.

The published module recomputes on every forward what never changes at inference (spectral norms, the statistics of a
truncation, two small linear layers per norm) and all 128 channels of a last convolution of which three are used. Folded
once, the images are the same (a test compares the two in float32) and the arithmetic is 0.79, 0.76 and 0.50 of the
published one at 128, 256 and 512 px.

    network = FoldedBigGAN(published_module, truncation=0.7).place(torch.device("cpu"), torch.bfloat16)
    images = network(latents, labels)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN
from pytorch_pretrained_biggan.model import BigGANBatchNorm, GenBlock, SelfAttn
from torch import Tensor, nn


def remove_spectral_norms(network: BigGAN) -> BigGAN:
    """The network with every spectral norm replaced by the weight that it computes, in place; same images."""
    for module in network.modules():
        if hasattr(module, "weight_orig"):
            nn.utils.remove_spectral_norm(module)
    return network


def truncation_statistics(norm: BigGANBatchNorm, truncation: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of a norm's input at a truncation, each [C], float64.

    Row i of the stored tables was recorded at truncation i / (rows - 1); between two rows we interpolate linearly. The
    published package swaps the two weights (at 0.41 it takes a mean that belongs to 0.41's mirror image between the
    neighbouring rows) and, through rounding, leaves the row at 0.14, 0.28 and 0.58. We do neither, so images at
    truncations between two rows differ from the package's, on purpose.
    """
    position = truncation * (len(norm.running_means) - 1)
    row = min(round(position), len(norm.running_means) - 1)
    means, variances = norm.running_means.double(), norm.running_vars.double()
    if abs(position - row) < 1e-6:
        return means[row], variances[row]
    row = int(position)
    return torch.lerp(means[row], means[row + 1], position - row), torch.lerp(
        variances[row], variances[row + 1], position - row
    )


def conditional_affine(norm: BigGANBatchNorm, truncation: float, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norm as scale and offset that are linear in the condition: weight [2C, condition], bias [2C], float64.

    scale = (1 + S c) / sigma and offset = O c - mean * scale, with sigma and mean those of the truncation; `shift` [C]
    is the bias of the convolution before it, which moves into the mean.
    """
    mean, variance = truncation_statistics(norm, truncation)
    if shift is not None:
        mean = mean - shift.double()
    inverse = torch.rsqrt(variance + norm.eps)
    scale = norm.scale.weight.double() * inverse[:, None]
    offset = norm.offset.weight.double() - mean[:, None] * scale
    return torch.cat([scale, offset]), torch.cat([inverse, -mean * inverse])


class FoldedBlock(nn.Module):
    """A residual block of four convolutions; its norms arrive as (scale, offset), each [B, C, 1, 1]."""

    def __init__(self, block: GenBlock) -> None:
        super().__init__()
        self.up_sample = block.up_sample
        self.keep_channels = block.conv_3.out_channels
        self.weights = nn.ParameterList(
            [block.conv_0.weight, block.conv_1.weight, block.conv_2.weight, block.conv_3.weight]
        )
        self.bias = nn.Parameter(block.conv_3.bias.detach())  # the other three moved into the norms that follow them

    def forward(self, x: Tensor, norms: list[tuple[Tensor, Tensor]]) -> Tensor:
        skip = x[:, : self.keep_channels]
        for i, (scale, offset) in enumerate(norms):
            x = torch.addcmul(offset, x, scale).relu_()
            if i == 1 and self.up_sample:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = F.conv2d(x, self.weights[i], self.bias if i == 3 else None, padding="same" if i in (1, 2) else 0)
        if self.up_sample:
            skip = F.interpolate(skip, scale_factor=2.0, mode="nearest")
        return x.add_(skip)


class FoldedBigGAN(nn.Module):
    """The generator of a published-style BigGAN at one truncation. Takes over its weights: the original is spent.

    Convolutions run in the dtype of `place` and in channels-last layout; the condition (class vector and norms, a small
    part of the arithmetic) stays in float32, and the images come out as float32.
    """

    def __init__(self, network: BigGAN, *, truncation: float) -> None:
        super().__init__()
        network = remove_spectral_norms(network.eval().requires_grad_(False))
        generator = network.generator
        self.start_channels = 16 * generator.config.channel_width
        self.embeddings = network.embeddings.weight.t().contiguous()  # [classes, z_dim]
        self.start = (generator.gen_z.weight.detach(), generator.gen_z.bias.detach())
        self.layers = nn.ModuleList()
        affines = []
        self.norm_channels: list[int] = []
        for layer in generator.layers:
            if isinstance(layer, SelfAttn):
                self.layers.append(layer)
                continue
            self.layers.append(FoldedBlock(layer))
            shifts = (None, layer.conv_0.bias, layer.conv_1.bias, layer.conv_2.bias)
            for norm, shift in zip((layer.bn_0, layer.bn_1, layer.bn_2, layer.bn_3), shifts, strict=True):
                affines.append(conditional_affine(norm, truncation, shift))
                self.norm_channels += [norm.num_features] * 2
        # One matrix product gives the scales and offsets of every norm.
        self.condition = (
            torch.cat([weight for weight, _ in affines]).float(),
            torch.cat([bias for _, bias in affines]).float(),
        )
        mean, variance = truncation_statistics(generator.bn, truncation)
        scale = generator.bn.weight.double() * torch.rsqrt(variance + generator.bn.eps)
        offset = generator.bn.bias.double() - mean * scale
        self.last_scale = nn.Parameter(scale.float()[None, :, None, None], requires_grad=False)
        self.last_offset = nn.Parameter(offset.float()[None, :, None, None], requires_grad=False)
        # The published module computes all channels and keeps three.
        self.rgb_weight = nn.Parameter(generator.conv_to_rgb.weight[:3].clone(), requires_grad=False)
        self.rgb_bias = nn.Parameter(generator.conv_to_rgb.bias[:3].clone(), requires_grad=False)

    def place(self, device: torch.device, dtype: torch.dtype) -> FoldedBigGAN:
        """Move everything to the device; convolutions to the dtype and channels-last, the condition stays float32."""
        self.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)
        self.embeddings = self.embeddings.float().to(device)
        self.start = (self.start[0].float().to(device), self.start[1].float().to(device))
        self.condition = (self.condition[0].to(device), self.condition[1].to(device))
        return self.requires_grad_(False).eval()

    def forward(self, latents: Tensor, labels: Tensor, *, depth: int | None = None) -> Tensor:
        """Images [B, 3, H, W], float32 in [-1, 1], of latents [B, z_dim] (truncation applied) and labels [B].

        With a depth, what leaves the first linear layer (0) or the depth-th block instead, [B, channels, h, w].
        """
        dtype = self.rgb_weight.dtype
        condition = torch.cat([latents, self.embeddings[labels]], dim=1)
        affine = F.linear(condition, *self.condition).to(dtype)[:, :, None, None].split(self.norm_channels, dim=1)
        x = F.linear(condition, *self.start).to(dtype)
        # The start is stored as [height, width, channels], which is channels-last already.
        x = x.view(-1, 4, 4, self.start_channels).permute(0, 3, 1, 2)
        position = 0
        for number, layer in enumerate(self.layers):
            if number == depth:
                return x
            if isinstance(layer, FoldedBlock):
                norms = [(affine[position + 2 * i], affine[position + 2 * i + 1]) for i in range(4)]
                x = layer(x, norms)
                position += 8
            else:
                x = layer(x).contiguous(memory_format=torch.channels_last)
        x = torch.addcmul(self.last_offset, x, self.last_scale).relu_()
        return torch.tanh(F.conv2d(x, self.rgb_weight, self.rgb_bias, padding=1).float())
