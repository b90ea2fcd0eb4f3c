"""All that the next step depends on, between a run's folder and the network and optimiser in memory.

step, loss = resume_run(run, config, network, optimizer)
save_run(run, config, network, optimizer, step=step, loss=loss)
"""

from __future__ import annotations

import math
from pathlib import Path

from torch.optim import Optimizer

from contrast.checkpoint import (
    CHECKPOINT_NAME,
    check_checkpoint_config,
    load_checkpoint,
    load_strictly,
    save_checkpoint,
)
from contrast.config import TrainConfig
from contrast.network import TrainedNetwork


def save_run(
    run: Path, config: TrainConfig, network: TrainedNetwork, optimizer: Optimizer, *, step: int, loss: float
) -> None:
    """Writes RUN/checkpoint.pt.

    Raises:
        ValueError: the weights are beyond what float32 can compute with; nothing was written.
    """
    # The loss of a step is from before its update, so it does not tell what the last update did. Weights whose squares
    # overflow are finite, but no feature that they give is.
    if not all(bool(tensor.float().square().sum().isfinite()) for tensor in network.state_dict().values()):
        raise ValueError(
            f"the weights are beyond what float32 can compute with after step {step}, so no checkpoint was written: "
            "train with a smaller --learning-rate"
        )
    # No state of a random generator: everything that is drawn is a function of the seed, the step and the rank.
    save_checkpoint(
        run / CHECKPOINT_NAME,
        {
            "config": config.to_json(),
            "step": step,
            "loss": loss,
            "encoder": network.encoder.state_dict(),
            "head": network.head.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
    )


def resume_run(run: Path, config: TrainConfig, network: TrainedNetwork, optimizer: Optimizer) -> tuple[int, float]:
    """Loads the newest checkpoint; gives the number of steps done and the loss recorded last."""
    if not (run / CHECKPOINT_NAME).exists():
        return 0, math.nan
    state = load_checkpoint(run / CHECKPOINT_NAME)
    check_checkpoint_config(run, state, config)
    load_strictly(network.encoder, state["encoder"], what=f"the encoder {config.encoder}")
    load_strictly(network.head, state["head"], what="the head")
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["loss"]
