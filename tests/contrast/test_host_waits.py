"""No operation of a step makes the host wait for a GPU: traced on tensors that say they are on one, and hold nothing.

Steps back are left out: autograd wants a real GPU for them.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contrast.augment import AugmentConfig, augment, draw_augmentation
from contrast.config import TrainConfig
from contrast.losses import multi_positive_loss
from contrast.objectives import OBJECTIVES, GroupFacts, Targets, build_objective
from contrast.optimizer import build_optimizer

GPU = torch.device("cuda")
GROUPS, SIZE, DIM = 6, 16, 8


class NoWaits(TorchDispatchMode):
    """Refuses what copies between host and GPU, or tells the host a value. Scalars travel with a kernel's arguments."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        waits = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}
        assert func._schema.name not in waits or "cuda" not in devices, f"{func} tells the host a value"
        if func._schema.name not in ("aten::index_put_", "aten::index_put", "aten::copy_", "aten::_to_copy"):
            devices = {tensor.device.type for tensor in tensors if tensor.ndim > 0}  # those copy scalars, too, and wait
        assert len(devices) < 2, f"{func} copies between {devices}"
        result = func(*args, **(kwargs or {}))
        if func._schema.name == "aten::_to_copy":
            assert result.device == tensors[0].device, f"{func} copies from {tensors[0].device} to {result.device}"
        return result


def test_the_loss_waits_for_nobody() -> None:
    with FakeTensorMode():
        projections = torch.empty(12, DIM, device=GPU, dtype=torch.bfloat16)
        ids = torch.empty(12, device=GPU, dtype=torch.int64)
        with NoWaits():
            assert multi_positive_loss(projections, ids, temperature=0.5).device.type == "cuda"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_objective_waits(name: str) -> None:
    config = TrainConfig(steps=1, batch_size=GROUPS, objective=name, head_hidden_dim=16, head_dim=DIM)
    facts = GroupFacts(num_images=2, classes=(3, 5, 7), latent_dim=4, latent_variance=1.0)
    objective = build_objective(config, facts)
    with FakeTensorMode():
        with GPU:
            head = objective.build_head(DIM)
        features = torch.empty(GROUPS * objective.num_images, DIM, device=GPU)
        targets = Targets(
            groups=torch.empty(GROUPS, dtype=torch.int64, device=GPU),
            classes=torch.empty(GROUPS, dtype=torch.int64, device=GPU),
            num_images=objective.num_images,
            latents=torch.empty(GROUPS, objective.num_images, 4, device=GPU),
        )
        with NoWaits():
            assert objective.loss(head(features), targets).device.type == "cuda"


def test_augmentation_waits_for_nobody() -> None:
    config = AugmentConfig(blur=0.5, solarize=0.5)
    draws = draw_augmentation(config, count=GROUPS, seed=0, step=0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_gpu = draws._each(lambda values: torch.empty_like(values, device=GPU))
        pixels = torch.empty(GROUPS, SIZE, SIZE, 3, dtype=torch.uint8, device=GPU)
        with NoWaits():
            assert augment(pixels, on_gpu).device.type == "cuda"


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_no_optimiser_waits(name: str) -> None:
    config = TrainConfig(steps=1, batch_size=GROUPS, optimizer=name)
    with FakeTensorMode():
        network = torch.nn.Linear(DIM, DIM, device=GPU)
        optimizer = build_optimizer(config, network)
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)
        with NoWaits():
            optimizer.step()


def test_what_waits_is_seen() -> None:
    with FakeTensorMode():
        values = torch.empty(4, device=GPU)
        rows = torch.empty(4, dtype=torch.int64, device=GPU)
        with NoWaits():
            values + 1.0  # a number travels with the kernel
            with pytest.raises(AssertionError, match="index_put"):
                values[rows] = 0.0
            with pytest.raises(AssertionError, match="copies"):
                values.cpu()
            with pytest.raises(AssertionError, match="tells the host a value"):
                values.sum().item()
