"""What training trains: an encoder, and the head of an objective on top of it.

network = TrainedNetwork(config, image_size=32, objective=objective)
outputs = network(images)             # [B, 3, 32, 32] in [0, 1] to what objective.loss takes
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from contrast.config import TrainConfig
from contrast.distributed import Place
from contrast.encoders import Encoder, build_encoder
from contrast.objectives import Objective


class TrainedNetwork(nn.Module):
    """Encoder and head; weights come from torch's global generator, the encoder's first."""

    def __init__(self, config: TrainConfig, *, image_size: int, objective: Objective) -> None:
        super().__init__()
        self.encoder: Encoder = build_encoder(config.encoder, image_size=image_size)
        self.head = objective.build_head(self.encoder.feature_dim)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] to the head's output."""
        return self.head(self.encoder(images))


def in_parallel(network: nn.Module, place: Place, *, sync_batchnorm: bool) -> nn.Module:
    """The network as a process among several runs it: gradients are averaged, batch statistics too where asked.

    Raises:
        ValueError: batch statistics over CPUs; torch has none.
    """
    if place.world_size == 1:
        return network
    is_cuda = place.device.type == "cuda"
    if sync_batchnorm:
        if not is_cuda:
            raise ValueError("--sync-batchnorm needs GPUs: omit it on CPUs")
        network = synchronise_batch_norm(network)
    return DistributedDataParallel(network, device_ids=[place.device.index] if is_cuda else None)


def synchronise_batch_norm(network: nn.Module) -> nn.Module:
    """The same network, parameters and names, with batch norms that share their statistics among processes.

    timm has norms that apply an activation too. torch's own conversion would drop it silently; timm's
    knows them.
    """
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if all(type(module) in plain for module in network.modules() if isinstance(module, _BatchNorm)):
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(network)


def averaging_gradients(parallel: nn.Module, *, when: bool) -> AbstractContextManager[None]:
    """Inside, processes exchange gradients only `when` told; those of passes without are exchanged with the next."""
    if when or not isinstance(parallel, DistributedDataParallel):
        return nullcontext()
    return parallel.no_sync()
