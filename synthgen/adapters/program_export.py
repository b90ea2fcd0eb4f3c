"""From a network in memory to a .pt2 file that renders anywhere, without the network's code.

export_program(network.eval(), "faces.pt2", latent_dim=100)              # forward(latents [B, 100])
export_program(network.eval(), "cats.pt2", latent_dim=128, num_classes=10)  # forward(latents, labels [B] int64)
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from synthgen.adapters.program_files import EXTRA_NAME

_LARGEST_BATCH = 100_000


def export_program(
    network: nn.Module,
    path: str | Path,
    *,
    latent_dim: int,
    num_classes: int = 0,
    class_names: Sequence[str] = (),
    batch_size: int | None = None,
) -> Path:
    """Writes the network as a program that `--generator PATH` takes, and gives the path.

    Args:
        network: in eval mode; forward(latents [B, latent_dim]) or, with classes, forward(latents, labels [B] int64),
            giving images [B, 3, H, H] in [-1, 1]. Its parameters' dtype is kept; the program is written for the CPU,
            from where it is moved to any device.
        batch_size: None for any batch; a number for networks that can only be traced at one.

    Raises:
        ValueError: another ending than .pt2, a network in training mode, names that are not one per class, or a network
            that torch.export cannot trace.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"{path}: call the file something.pt2")
    if any(module.training for module in network.modules()):
        raise ValueError("the network is in training mode: call its eval() first")
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"{len(class_names)} class names for {num_classes} classes: give one per class")
    weights = next(network.parameters(), torch.empty(0))
    count = batch_size or 2  # torch.export takes a batch of one for a constant
    inputs = [torch.zeros(count, latent_dim, device=weights.device)]
    if num_classes:
        inputs.append(torch.zeros(count, dtype=torch.int64, device=weights.device))
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    shapes = None if batch_size else tuple({0: batch} for _ in inputs)
    try:
        with torch.no_grad():
            program = torch.export.export(network, tuple(inputs), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        reason = " ".join(f"{error}".split())[:200]
        raise ValueError(
            f"torch.export cannot trace {type(network).__name__} ({type(error).__name__}: {reason}): give a "
            "batch_size, or bring it as module:function"
        ) from error
    if weights.device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, "cpu")
    extra = {"num_classes": num_classes, "class_names": list(class_names)}
    with warnings.catch_warnings():
        # Weights in channels-last layout are written in that layout, and torch warns that they might not be.
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(program, path, extra_files={EXTRA_NAME: json.dumps(extra)})
    return path
