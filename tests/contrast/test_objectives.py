"""Every objective against its published definition, what it needs, and what it must not do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from contrast.assembly import find_facts
from contrast.batches import GroupBatch
from contrast.config import TrainConfig
from contrast.network import TrainedNetwork
from contrast.objectives import OBJECTIVES, GroupFacts, Targets, build_objective
from contrast.objectives.vicreg import vicreg_loss
from contrast.optimizer import default_settings
from contrast.run_options import RunOptions
from contrast.training import train_encoder
from shards.dataset import GroupDataset

QUIET = RunOptions(device="cpu", quiet=True)
FACTS = GroupFacts(num_images=3, classes=(2, 5, 7), latent_dim=4, latent_variance=0.8)


def some_config(objective: str, **settings: object) -> TrainConfig:
    return TrainConfig(steps=1, objective=objective, batch_size=8, head_hidden_dim=16, head_dim=6, **settings)  # type: ignore[arg-type]


def some_targets(num_images: int, num_groups: int = 8) -> Targets:
    generator = torch.Generator().manual_seed(5)
    return Targets(
        groups=torch.randperm(50, generator=generator)[:num_groups],
        classes=torch.randint(0, 3, (num_groups,), generator=generator),
        num_images=num_images,
        latents=torch.randn(num_groups, num_images, 4, generator=generator),
    )


def loop_vicreg(first: Tensor, second: Tensor) -> Tensor:
    """Bardes et al. 2022, equations 1 to 6, a number at a time; variances halved, as in the authors' code."""
    num, dim = first.shape
    invariance = sum((first[i, d] - second[i, d]) ** 2 for i in range(num) for d in range(dim)) / (num * dim)
    variance = covariance = torch.zeros((), dtype=first.dtype)
    for z in (first, second):
        means = [sum(z[i, d] for i in range(num)) / num for d in range(dim)]
        for a in range(dim):
            for b in range(dim):
                c = sum((z[i, a] - means[a]) * (z[i, b] - means[b]) for i in range(num)) / (num - 1)
                if a != b:
                    covariance = covariance + c**2 / dim
                else:
                    variance = variance + torch.clamp(1 - torch.sqrt(c + 1e-4), min=0) / dim / 2
    return 25 * invariance + 25 * variance + covariance


@pytest.mark.parametrize("scale", [0.3, 2.0])  # below and above the variance that is asked for
def test_vicreg_equals_the_double_loop(scale: float) -> None:
    first, second = scale * torch.randn(2, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mine, loop = ((a.clone().requires_grad_(), b.clone().requires_grad_()) for a, b in [(first, second)] * 2)
    loss, expected = vicreg_loss(*mine), loop_vicreg(*loop)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for x, y in zip(mine, loop, strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-10, atol=1e-12)


def test_vicreg_pairs_the_images_of_a_group() -> None:
    objective = build_objective(some_config("vicreg"), FACTS)
    outputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    loss = objective.loss(outputs, some_targets(2))
    assert loss == vicreg_loss(outputs[0::2], outputs[1::2])
    assert loss != vicreg_loss(outputs[:8], outputs[8:])


def test_inverter_is_the_mean_squared_error_of_every_image_and_the_class() -> None:
    objective = build_objective(some_config("inverter"), FACTS)
    targets = some_targets(objective.num_images)
    assert objective.num_images == 3 and targets.latents is not None
    outputs = torch.randn(24, 4 + 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    squares, nats = [], []
    for row in range(24):
        group, image = divmod(row, 3)
        squares += [(outputs[row, d] - targets.latents[group, image, d]) ** 2 for d in range(4)]
        nats.append(torch.logsumexp(outputs[row, 4:], 0) - outputs[row, 4 + targets.classes[group]])
    expected = sum(squares) / len(squares) + sum(nats) / len(nats)
    torch.testing.assert_close(objective.loss(outputs, targets), expected)
    classless = build_objective(some_config("inverter"), dataclasses.replace(FACTS, classes=()))
    torch.testing.assert_close(classless.loss(outputs[:, :4], targets), sum(squares) / len(squares))


def test_images_and_chance_of_every_objective() -> None:
    objectives = {name: build_objective(some_config(name), FACTS) for name in OBJECTIVES}
    assert {name: objective.num_images for name, objective in objectives.items()} == {
        "simclr": 2, "multi-positive": 3, "supcon": 3, "vicreg": 2, "cross-entropy": 3, "inverter": 3,
    }  # fmt: skip
    same = {  # an encoder that gives the same for every image
        "vicreg": torch.zeros(16, 6),
        "cross-entropy": torch.zeros(24, 3),
        "simclr": torch.ones(16, 6),
        "multi-positive": torch.ones(24, 6),
        "supcon": torch.ones(24, 6),
    }
    for name, outputs in same.items():
        loss = objectives[name].loss(outputs, some_targets(objectives[name].num_images))
        assert loss.item() == pytest.approx(objectives[name].chance_loss(), abs=1e-4), name
    assert objectives["inverter"].chance_loss() == pytest.approx(0.8 + math.log(3))
    halved = build_objective(some_config("simclr", accumulate=2), FACTS)
    assert halved.chance_loss() == pytest.approx(math.log(7))  # 4 groups of 2 are compared at a time


def test_targets_are_the_places_of_the_classes_among_those_of_the_dataset() -> None:
    images = np.zeros((4, 3, 1, 1, 3), np.uint8)
    batch = GroupBatch(step=0, indices=np.array([9, 4, 6, 5]), labels=np.array([7, 2, 5, 7]), images=images)
    targets = build_objective(some_config("supcon"), FACTS).targets(batch, torch.device("cpu"))
    assert (targets.classes.tolist(), targets.groups.tolist()) == ([2, 0, 1, 2], [9, 4, 6, 5])


class NoWaiting(TorchDispatchMode):
    """Refuses what copies a number from the device to the host: .item(), bool(tensor), float(tensor)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func is not torch.ops.aten._local_scalar_dense.default, "waits for the device"
        return func(*args, **(kwargs or {}))


def test_the_guard_against_waiting_can_fail() -> None:
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        bool(torch.ones(()) > 0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_step_waits_for_the_device(name: str) -> None:
    from contrast.augment import AugmentConfig, augment, draw_augmentation
    from contrast.optimizer import build_optimizer

    config = some_config(name, encoder="convnet-small", optimizer="lars")
    objective = build_objective(config, FACTS)
    network = TrainedNetwork(config, image_size=16, objective=objective)
    optimizer = build_optimizer(config, network)
    count = 8 * objective.num_images
    pixels = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8)
    targets = some_targets(objective.num_images)
    draws = draw_augmentation(AugmentConfig(blur=0.5, solarize=0.5), count=count, seed=0, step=0)
    with NoWaiting():
        objective.loss(network(augment(pixels, draws)), targets).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_bfloat16_outputs_lose_nothing_more(name: str) -> None:
    """The loss of bfloat16 outputs is the float32 loss of the same numbers, under autocast, too."""
    objective = build_objective(some_config(name), FACTS)
    head = objective.build_head(10)
    outputs = head(torch.randn(8 * objective.num_images, 10)).detach().bfloat16()
    targets = some_targets(objective.num_images)
    expected = objective.loss(outputs.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(outputs, targets)
    assert loss.dtype == torch.float32 and loss.item() == expected.item()


def test_heads() -> None:
    widths = {name: build_objective(some_config(name), FACTS).build_head(10) for name in OBJECTIVES}
    shapes = {
        name: [list(layer.weight.shape) for layer in head.modules() if isinstance(layer, nn.Linear)]
        for name, head in widths.items()
    }
    projection = [[16, 10], [6, 16]]
    assert shapes == {
        "simclr": projection, "multi-positive": projection, "supcon": projection,
        "vicreg": [[16, 10], [16, 16], [6, 16]], "cross-entropy": [[3, 10]], "inverter": [[16, 10], [7, 16]],
    }  # fmt: skip
    assert default_settings("vicreg", "adamw", batch_size=8)["head_dim"] == 2048
    assert "head_dim" not in default_settings("simclr", "adamw", batch_size=8)


@pytest.mark.parametrize(
    ("settings", "facts", "message"),
    [
        ({"objective": "supcon"}, {"classes": ()}, "supcon needs class labels .* use --objective simclr"),
        ({"objective": "cross-entropy"}, {"classes": ()}, "cross-entropy needs class labels"),
        (
            {"objective": "cross-entropy"},
            {"classes": (7,)},
            "needs two classes or more and these groups are all of one",
        ),
        ({"objective": "supcon"}, {"classes": (0,)}, "supcon needs two classes or more .* use --objective simclr"),
        ({"objective": "supcon", "batch_size": 8, "accumulate": 8}, {}, "batch size 8 in 8 parts: the loss needs"),
        ({"objective": "inverter"}, {"latent_dim": None}, "inverter needs the latents .* --store-latents"),
        ({"objective": "inverter", "mix_share": 0.5}, {}, "real images have no latents; omit --mix"),
        ({"objective": "cross-entropy", "positives": "shuffled"}, {}, "cross-entropy does not learn from pairs of one"),
        ({"objective": "inverter", "positives": "shuffled"}, {}, "inverter does not learn from pairs of one group"),
        ({"objective": "supcon", "positives": "shuffled"}, {}, "supcon does not learn from .* simclr, multi-positive"),
        ({"positives": "tz"}, {"num_images": 1}, "positives tz: these groups have no views; use --positives tx"),
        ({"batch_size": 1}, {}, "batch size 1: the loss needs other groups"),
        ({"objective": "vicreg", "batch_size": 4, "accumulate": 4}, {}, "batch size 4 in 4 parts: the loss needs"),
    ],
)
def test_what_an_objective_lacks_is_named(settings: dict, facts: dict, message: str) -> None:  # type: ignore[type-arg]
    config = TrainConfig(**{"steps": 1, "batch_size": 8, **settings})
    with pytest.raises(ValueError, match=message):
        build_objective(config, dataclasses.replace(FACTS, **facts))


def test_batches_carry_the_latents_of_their_groups(make_groups: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_groups(with_latents=True, num_views=2)
    dataset = GroupDataset(folder)
    facts = find_facts(dataset, with_latents=True)
    assert facts.latent_dim == 3 and facts.latent_variance == pytest.approx(1, abs=0.2)
    assert find_facts(dataset, with_latents=False).latent_dim is None
    config = TrainConfig(steps=16, batch_size=32, objective="inverter", head_hidden_dim=64, warmup=0.0)
    summary = train_encoder(config, shards=folder, out=tmp_path / "run", options=QUIET)
    assert summary.chance_loss == pytest.approx(facts.latent_variance + math.log(4))
    assert summary.loss < summary.chance_loss - 0.1  # the class, at least; these latents mean nothing


def test_the_variance_of_the_latents_is_that_of_their_components_and_not_between_them(
    make_groups: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = GroupDataset(make_groups(num_groups=8, with_latents=True))
    monkeypatch.setattr(GroupDataset, "latents", lambda self, index: np.array([[index % 2, 100 + index % 2]]))
    assert find_facts(dataset, with_latents=True).latent_variance == pytest.approx(0.25)
