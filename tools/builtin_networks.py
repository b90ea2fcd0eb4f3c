"""The built-in generator while it is trained, and the way back into the package's form.

It is pytorch-pretrained-biggan's BigGAN-deep. That package only runs inference: its batch norm reads stored
statistics and computes none, so a generator trained as shipped has no normalisation at all. Here the same modules get
batch statistics for training, and `export_generator` turns the result back into the package's form, with spectral norm
folded into the weights and one row of statistics per truncation.

    generator = TrainableBigGAN(generator_config("large"))
    generator.spectral.normalise()                        # after every change of the weights
    images = generator(latents, one_hot_labels)           # [B, 3, 32, 32] in -1 … 1
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from pytorch_pretrained_biggan.model import BigGANBatchNorm, GenBlock, SelfAttn
from torch import Tensor, nn

NUM_STATISTICS = 51
"""Rows of batch-norm statistics in the exported file: truncation 0, 0.02, … 1."""

GENERATOR_CONFIGS: dict[str, dict[str, object]] = {
    "large": {  # 8.1 M parameters, 1.3 GFLOP an image: to be trained on a GPU
        "channel_width": 48,
        "layers": [
            [True, 16, 16],  # 4 -> 8 px
            [True, 16, 8],  # 8 -> 16 px
            [False, 8, 8],
            [True, 8, 4],  # 16 -> 32 px
            [False, 4, 2],
            [False, 2, 1],
        ],
        "attention_layer_position": 3,  # on 16 px maps
    },
    "small": {  # 3.6 M parameters, 0.1 GFLOP an image: to be trained on a CPU
        "channel_width": 32,
        "layers": [[True, 16, 8], [False, 8, 4], [True, 4, 2], [True, 2, 1]],
        "attention_layer_position": 3,  # on 16 px maps
    },
}
"""The settings of `BigGANConfig` that differ between sizes; a layer is [upsample, width in, width out]."""


def generator_config(size: str) -> dict[str, object]:
    """All settings of `BigGANConfig` for a size of GENERATOR_CONFIGS; 32 px, the ten classes of CIFAR-10."""
    shared = {"output_dim": 32, "z_dim": 128, "class_embed_dim": 128, "num_classes": 10, "eps": 1e-4}
    return {**shared, **GENERATOR_CONFIGS[size], "n_stats": NUM_STATISTICS}


def normalise_and_modulate(x: Tensor, scale: Tensor, offset: Tensor, eps: float) -> Tensor:
    """Maps x [B, C, H, W] with batch statistics taken out, times 1 + scale [B, C], plus offset [B, C]."""
    normal = F.batch_norm(x, None, None, training=True, eps=eps)
    return torch.addcmul(offset[:, :, None, None], normal, 1 + scale[:, :, None, None])


class BatchStatisticsNorm(nn.Module):
    """Stands in for `BigGANBatchNorm`: the same affine parameters, statistics of the batch at hand.

    While `recording` is set, mean and variance of every batch are summed in float64 for `recorded_statistics`.
    """

    def __init__(self, norm: BigGANBatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.conditional = norm.conditional
        if norm.conditional:
            self.scale = norm.scale
            self.offset = norm.offset
        else:
            self.weight = nn.Parameter(torch.ones(norm.num_features))
            self.bias = nn.Parameter(torch.zeros(norm.num_features))
        self.recording = False
        self.sums: Tensor | None = None
        self.num_batches = 0

    def forward(self, x: Tensor, truncation: float, condition_vector: Tensor | None = None) -> Tensor:
        if self.recording:
            self._record(x)
        if not self.conditional:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return normalise_and_modulate(x, self.scale(condition_vector), self.offset(condition_vector), self.eps)

    def _record(self, x: Tensor) -> None:
        wide = x.detach().double()
        moments = torch.stack([wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3))])
        self.sums = moments if self.sums is None else self.sums + moments
        self.num_batches += 1

    def recorded_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [C] over everything seen while recording; forgets it."""
        assert self.sums is not None
        mean, square = self.sums / self.num_batches
        self.sums, self.num_batches = None, 0
        return mean.float(), (square - mean.square()).float()


class TrainableBigGAN(BigGAN):
    """The package's network with batch statistics and `SpectralWeights`, in channels_last all the way.

    The arithmetic is the package's. Only the memory layout differs: its forward turns the maps to NCHW, which costs a
    GPU more than the convolutions do.
    """

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__(BigGANConfig.from_dict(dict(config)))
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if hasattr(child, "weight_orig"):
                    setattr(parent, name, _renew(child))
        for parent in list(self.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BigGANBatchNorm):
                    setattr(parent, name, BatchStatisticsNorm(child))
        nn.init.normal_(self.embeddings.weight, std=0.25)  # weaker than the latent, or a class is one picture at first
        for module in self.modules():
            if isinstance(module, GenBlock):  # what a norm with batch statistics takes out again need not be learned
                for layer in (module.conv_0, module.conv_1, module.conv_2):
                    layer.bias.requires_grad_(False)
        self.spectral = SpectralWeights(self, skip=(self.embeddings,))

    def forward(self, latents: Tensor, one_hot: Tensor, truncation: float = 1.0) -> Tensor:
        """Images [B, 3, H, W] in -1 … 1 of latents [B, z] and one-hot labels [B, C]; weights as last normalised."""
        network = self.generator
        condition = torch.cat([latents, self.embeddings(one_hot)], dim=1)
        x = network.gen_z(condition).view(-1, 4, 4, 16 * self.config.channel_width).permute(0, 3, 1, 2)
        for layer in network.layers:
            x = attend(layer, x) if isinstance(layer, SelfAttn) else advance(layer, x, condition, truncation)
        x, last = F.relu(network.bn(x, truncation)), network.conv_to_rgb
        return torch.tanh(F.conv2d(x, last.weight[:3], last.bias[:3], padding=1))  # the other channels are never used


def advance(block: GenBlock, x: Tensor, condition: Tensor, truncation: float) -> Tensor:
    """`GenBlock.forward`, its upsampling in the number format of the maps: autocast would widen it to float32."""
    skip = x[:, : block.conv_3.out_channels]
    for position, (norm, layer) in enumerate(
        ((block.bn_0, block.conv_0), (block.bn_1, block.conv_1), (block.bn_2, block.conv_2), (block.bn_3, block.conv_3))
    ):
        x = F.relu(norm(x, truncation, condition))
        x = layer(double(x) if position == 1 and block.up_sample else x)
    return x + (double(skip) if block.up_sample else skip)


def double(x: Tensor) -> Tensor:
    """Maps [B, C, H, W] with every pixel repeated twice in both directions."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


def attend(layer: SelfAttn, x: Tensor) -> Tensor:
    """`SelfAttn.forward` for maps [B, C, H, W] in either memory layout."""
    queries = layer.snconv1x1_theta(x).flatten(2)
    keys = layer.maxpool(layer.snconv1x1_phi(x)).flatten(2)
    values = layer.maxpool(layer.snconv1x1_g(x)).flatten(2)
    weights = torch.softmax(queries.mT @ keys, dim=-1)
    mixed = (values @ weights.mT).unflatten(2, x.shape[2:]).contiguous(memory_format=torch.channels_last)
    return x + layer.gamma * layer.snconv1x1_o_conv(mixed)


def _renew(layer: nn.Module) -> nn.Module:
    """The same layer without the package's spectral norm, orthogonally initialised."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size)
        fresh: nn.Conv2d | nn.Linear = nn.Conv2d(*shape, padding=layer.padding, bias=bias)
    else:
        fresh = nn.Linear(layer.in_features, layer.out_features, bias=bias)
    nn.init.orthogonal_(fresh.weight)
    if bias:
        nn.init.zeros_(fresh.bias)
    return fresh


class SpectralWeights(nn.Module):
    """Spectral norm of all layers of a network at once (Miyato et al. 2018).

    Layers of one shape share their power iteration as batched products, and the weights are normalised once per
    update (`normalise`), not once per forward: the usual hook costs a network of ninety small layers more kernel
    launches than all its convolutions.
    """

    def __init__(self, network: nn.Module, *, skip: tuple[nn.Module, ...] = ()) -> None:
        super().__init__()
        groups: dict[tuple[int, int], list[nn.Module]] = {}
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding) and module not in skip:
                weight = module.weight
                del module._parameters["weight"]
                module.register_parameter("weight_orig", weight)
                module.weight = weight.detach()  # until the first `normalise`
                groups.setdefault((len(weight), weight[0].numel()), []).append(module)
        self.groups = list(groups.values())  # a plain list: the layers belong to the network
        for index, (rows, _) in enumerate(groups):
            start = F.normalize(torch.randn(len(self.groups[index]), rows, 1), dim=1)
            self.register_buffer(f"left_{index}", start)

    def normalise(self, *, iterations: int = 1, dtype: torch.dtype = torch.float32) -> None:
        """Set every layer's `weight` to weight_orig / sigma in `dtype`, with gradient unless gradients are off."""
        for index, layers in enumerate(self.groups):
            stacked = torch.stack([layer.weight_orig.flatten(1) for layer in layers]).float()
            left = getattr(self, f"left_{index}")
            with torch.no_grad():
                for _ in range(iterations):
                    right = F.normalize(stacked.mT @ left, dim=1)
                    left = F.normalize(stacked @ right, dim=1)
                getattr(self, f"left_{index}").copy_(left)
            sigma = left.mT @ stacked @ right
            for layer, weight in zip(layers, (stacked / sigma).to(dtype).unbind(0), strict=True):
                layer.weight = weight.view_as(layer.weight_orig)

    @torch.no_grad()
    def fold(self) -> None:
        """Make every layer plain again: its `weight` is weight_orig over its exact largest singular value."""
        for layer in (layer for layers in self.groups for layer in layers):
            original = layer.weight_orig
            sigma = torch.linalg.matrix_norm(original.flatten(1).double(), ord=2)
            del layer._parameters["weight_orig"], layer.weight
            layer.register_parameter("weight", nn.Parameter((original.double() / sigma).float()))


@torch.no_grad()
def export_generator(
    generator: TrainableBigGAN, *, samples_per_row: int, batch_size: int, draw_latents: torch.Generator
) -> dict[str, Tensor]:
    """State dict of an inference `BigGAN`: folded spectral norm, statistics for every truncation 0 … 1.

    Truncation t is recorded on latents t * (standard normal cut at ±2) and balanced labels, in full precision.
    The folded weight is divided by the exact largest singular value, not by a power iteration's estimate of it.
    """
    device = next(generator.parameters()).device
    config = generator.config
    generator.spectral.fold()
    del generator.spectral
    norms = {name: module for name, module in generator.named_modules() if isinstance(module, BatchStatisticsNorm)}
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in norms}
    labels = torch.arange(batch_size, device=device) % config.num_classes
    one_hot = F.one_hot(labels, config.num_classes).float()
    for row in range(config.n_stats):
        for norm in norms.values():
            norm.recording = True
        for _ in range(-(-samples_per_row // batch_size)):
            latents = truncated_normal(batch_size, config.z_dim, device=device, generator=draw_latents)
            generator(latents * (row / (config.n_stats - 1)), one_hot, 1.0)
        for name, norm in norms.items():
            norm.recording = False
            rows[name].append(norm.recorded_statistics())
    state = {name: tensor.detach().clone() for name, tensor in generator.state_dict().items()}
    for name, statistics in rows.items():
        state[f"{name}.running_means"] = torch.stack([mean for mean, _ in statistics])
        state[f"{name}.running_vars"] = torch.stack([variance for _, variance in statistics])
    return state


def truncated_normal(count: int, dim: int, *, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal draws [count, dim] cut at ±2, by inverse CDF."""
    tail = 0.022750131948179195  # Phi(-2)
    uniform = torch.rand(count, dim, device=device, generator=generator)
    return torch.special.ndtri(tail + (1 - 2 * tail) * uniform).clamp(-2, 2)
