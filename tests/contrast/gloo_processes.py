"""Run by torchrun: what several processes make of the losses, and of training runs.

python -m torch.distributed.run --nproc-per-node 2 gloo_processes.py CASE.pt RESULT.pt GROUPS RUN
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from contrast.config import TrainConfig
from contrast.distributed import Place, process_group
from contrast.losses import multi_positive_loss
from contrast.network import averaging_gradients
from contrast.objectives import OBJECTIVES, GroupFacts, Objective, Targets, build_objective
from contrast.run_options import RunOptions
from contrast.training import train_encoder

FACTS = GroupFacts(num_images=2, classes=(0, 1, 2), latent_dim=3, latent_variance=1.0)


def linear(weight: Tensor) -> nn.Linear:
    """A float64 layer without normalisation, whose statistics would be each process's own."""
    network = nn.Linear(*weight.T.shape, bias=False, dtype=torch.float64)
    network.load_state_dict({"weight": weight})
    return network


def learn(
    objective: Objective, network: nn.Module, parts: list[tuple[Tensor, Targets]], *, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean loss over parts of the batch, and the gradient of the weight."""
    total = torch.zeros((), dtype=torch.float64)
    for number, (inputs, targets) in enumerate(parts):
        with averaging_gradients(network, when=number == len(parts) - 1):
            loss = objective.loss(network(inputs), targets) / len(parts)
            loss.backward()
        total += loss.detach()
    assert weight.grad is not None
    return total, weight.grad


def targets_of(data: dict[str, Tensor], groups: slice | list[int]) -> tuple[Tensor, Targets]:
    """Inputs and targets of some of the eight groups of two."""
    targets = Targets(
        groups=torch.arange(8)[groups],
        classes=data["classes"][groups],
        num_images=2,
        latents=data["latents"][groups],
    )
    return data["inputs"].unflatten(0, (8, 2))[groups].flatten(0, 1), targets


def learn_and_train(place: Place, data: dict[str, Tensor], groups: str, run: str) -> dict[str, Any]:
    """The loss and the gradient of every objective, and four training runs."""
    network = linear(data["weight"])
    parallel = DistributedDataParallel(network)
    rows = data["inputs"].chunk(place.world_size)[place.rank]
    ids = data["ids"].chunk(place.world_size)[place.rank]
    loss = multi_positive_loss(parallel(rows), ids, temperature=0.2)
    loss.backward()
    mean_loss = place.mean(loss.detach())
    found: dict[str, Any] = {"loss": mean_loss, "gradient": network.weight.grad}
    for name in OBJECTIVES:
        objective = build_objective(TrainConfig(steps=1, objective=name, batch_size=8), FACTS)
        for num_parts in (1, 2):
            network = linear(data["weight"])
            size = 8 // place.world_size // num_parts
            firsts = range(place.rank * size * num_parts, (place.rank + 1) * size * num_parts, size)
            parts = [targets_of(data, slice(first, first + size)) for first in firsts]
            total, gradient = learn(objective, DistributedDataParallel(network), parts, weight=network.weight)
            found[f"{name}/{num_parts}"] = {"loss": place.mean(total), "gradient": gradient}
    config = TrainConfig(steps=4, batch_size=16, head_hidden_dim=32, head_dim=16)
    options = RunOptions(device="cpu", log_every=2, quiet=True)
    train_encoder(config, shards=groups, out=run, options=options)
    parted = dataclasses.replace(config, steps=2, mix_share=0.25, accumulate=2)
    train_encoder(parted, shards=groups, mix=groups, out=f"{run}-in-parts", options=options)
    streamed = dataclasses.replace(config, steps=2, order="streamed")
    streaming = dataclasses.replace(options, reader="webdataset")
    train_encoder(streamed, shards=groups, out=f"{run}-streamed", options=streaming)
    refused = {
        "synced": {"config": dataclasses.replace(config, sync_batchnorm=True)},
        "other settings": {"config": dataclasses.replace(config, learning_rate=0.001 * (1 + place.rank))},
        "other groups": {"n": 32 * (1 + place.rank)},
    }
    for name, changed in refused.items():
        try:
            train_encoder(**{"config": config, "shards": groups, "out": f"{run}-refused", "options": options} | changed)
        except ValueError as error:
            found[name] = str(error)
    found["begun"] = Path(f"{run}-refused/checkpoint.pt").exists()
    return found


def thread_names() -> list[str]:
    """Of all threads of this process, those of C++ among them."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def main(case: Path, result: Path, groups: str, run: str) -> None:
    torch.set_num_threads(1)
    data = torch.load(case, weights_only=True)
    with process_group("cpu") as place:
        found = learn_and_train(place, data, groups, run)
        found["threads"] = thread_names()
    found["threads afterwards"] = thread_names()
    if place.is_first:
        torch.save(found, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
