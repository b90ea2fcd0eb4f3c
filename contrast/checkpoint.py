"""Everything that the next step depends on, in one file that is replaced whole or not at all.

    save_run(run, record, network, optimizer, step=step, loss=loss)
    step, loss = resume_run(run, record, network, optimizer)
    encoder_state = load_run(run, record)["encoder"]

A checkpoint holds tensors and plain types alone, so it is read without unpickling code.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from contrast.config import TrainConfig
from contrast.network import TrainedNetwork
from contrast.run_folder import CHECKPOINT_NAME, FORMAT, RunRecord
from contrast.trained_on import TrainedOn
from shards.atomic import write_atomically
from shards.canonical import first_difference, shorten
from shards.errors import DamageError, describe_error

_PARTS = {
    "config": dict,
    "trained_on": dict,
    "step": int,
    "loss": float,
    "encoder": Mapping,
    "head": Mapping,
    "optimizer": dict,
}
_UNREADABLE = (
    zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError,
    ValueError, KeyError, IndexError, TypeError, AttributeError, zlib.error,
)  # fmt: skip


def save_run(
    run: Path, record: RunRecord, network: TrainedNetwork, optimizer: Optimizer, *, step: int, loss: float
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
            "config": record.config.to_json(),
            "trained_on": record.trained_on.to_json(),
            "step": step,
            "loss": loss,
            "encoder": network.encoder.state_dict(),
            "head": network.head.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
    )


def resume_run(run: Path, record: RunRecord, network: TrainedNetwork, optimizer: Optimizer) -> tuple[int, float]:
    """Loads the newest checkpoint; gives the number of steps done and the loss recorded last."""
    if not (run / CHECKPOINT_NAME).exists():
        return 0, math.nan
    state = load_run(run, record)
    load_strictly(network.encoder, state["encoder"], what=f"the encoder {record.config.encoder}")
    load_strictly(network.head, state["head"], what="the head")
    try:
        optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damage(run / CHECKPOINT_NAME, error) from error
    return state["step"], state["loss"]


def load_run(run: Path, record: RunRecord) -> dict[str, Any]:
    """The newest checkpoint of the run that RUN/config.json describes, as save_run wrote it.

    Raises:
        ValueError: there is none, or it is of another run.
        DamageError: it does not load, or lacks something.
    """
    path = run / CHECKPOINT_NAME
    state = load_checkpoint(path)
    try:
        _check_parts(state)
        saved = TrainConfig.from_json(state["config"])
        if not 0 <= state["step"] <= saved.steps:
            raise ValueError(f"its step is {state['step']} of {saved.steps}")
        trained_on = TrainedOn.from_json(state["trained_on"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damage(path, error) from error
    difference = first_difference(  # the encoder first: it says most
        {"encoder": saved.encoder, **saved.to_json()},
        {"encoder": record.config.encoder, **record.config.to_json()},
        one_is="in the checkpoint",
        other_is="in config.json",
    )
    difference = difference or trained_on.difference(
        record.trained_on, one_is="in the checkpoint", other_is="in config.json"
    )
    if difference is not None:
        raise ValueError(
            f"{path} is of another {'encoder' if saved.encoder != record.config.encoder else 'run'} "
            f"({difference}): restore the run's own checkpoint, or train in a new folder"
        )
    return state


def _check_parts(state: Mapping[str, Any]) -> None:
    for name, kind in _PARTS.items():
        if not isinstance(state.get(name), kind):
            raise TypeError(f"its {name} is {shorten(state.get(name))}")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes the state beside its final name, on the same disk, and renames; a reader finds the old file or the new."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state, on the CPU.

    Raises:
        ValueError: there is no such file, or it is of another version.
        DamageError: it does not load.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"no {path}: train first (contrast train --out {path.parent} …)") from None
    try:
        damaged = zipfile.ZipFile(io.BytesIO(data)).testzip()  # torch.load does not look at the checksums
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} has another checksum")
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise _damage(path, error) from error
    if not isinstance(state, dict) or "format" not in state:
        raise DamageError(f"{path} is not a checkpoint of contrast train: restore it, or remove it and train again")
    if state["format"] != FORMAT:
        raise ValueError(f"{path} is of format {state['format']}, this version reads {FORMAT}: train anew")
    return state


def _damage(path: Path, error: Exception) -> DamageError:
    return DamageError(f"{path} is damaged ({describe_error(error)}): restore it, or remove it and train again")


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Loads the state when it fits the module entry by entry, names and shapes; else leaves the module as it was.

    Raises:
        ValueError: naming the first entry that does not fit. A partly loaded encoder would score like a random one.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise ValueError(f"the checkpoint is of another encoder: {what} has {name}, the checkpoint does not")
        if name not in own:
            raise ValueError(f"the checkpoint is of another encoder: it has {name}, {what} does not")
        if own[name].shape != state[name].shape:
            raise ValueError(
                f"the checkpoint is of another encoder: {name} is {list(state[name].shape)} there "
                f"and {list(own[name].shape)} in {what}"
            )
    module.load_state_dict(state, strict=True)
