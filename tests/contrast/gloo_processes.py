"""Run by torchrun: what several processes make of the loss, and of a training run.

python -m torch.distributed.run --nproc-per-node 2 gloo_processes.py CASE.pt RESULT.pt GROUPS RUN
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from contrast.config import TrainConfig
from contrast.distributed import process_group
from contrast.losses import multi_positive_loss
from contrast.training import RunOptions, train_encoder


def main(case: Path, result: Path, groups: str, run: str) -> None:
    torch.set_num_threads(1)
    data = torch.load(case, weights_only=True)
    with process_group("cpu") as place:
        network = torch.nn.Linear(*data["weight"].T.shape, bias=False, dtype=torch.float64)
        network.load_state_dict({"weight": data["weight"]})
        parallel = DistributedDataParallel(network)
        rows = data["inputs"].chunk(place.world_size)[place.rank]
        ids = data["ids"].chunk(place.world_size)[place.rank]
        loss = multi_positive_loss(parallel(rows), ids, temperature=0.2)
        loss.backward()
        mean_loss = place.mean(loss.detach())
        if place.is_first:
            torch.save({"loss": mean_loss, "gradient": network.weight.grad}, result)
        config = TrainConfig(steps=4, batch_size=16, head_hidden_dim=32, head_dim=16)
        train_encoder(config, shards=groups, out=run, options=RunOptions(device="cpu", log_every=2, quiet=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
