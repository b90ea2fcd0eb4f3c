"""What a generator promises, tried before it counts: a few small passes on latents that are always the same.

probe_generator(generator, batch_size=50, device=torch.device("cpu"))
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from synthgen.adapters.protocol import Generator
from synthgen.arithmetic import reproducible_arithmetic
from synthgen.draws import draw_truncated_normal

_PROBE_SIZE = 8
_WIDEST_VALUE = 8.0  # networks without a last tanh overshoot [-1, 1], but not as far as 0 … 255 lies
_NEIGHBOUR_TOLERANCE = 0.03  # bfloat16 sums in another order move pixels by less than a third of this


def probe_inputs(
    generator: Generator, *, count: int, device: torch.device, truncation: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Latents [count, latent_dim] float32 and labels [count] int64, over all classes, on the device."""
    drawn = truncation * draw_truncated_normal(seed=0, stream="probe", first=0, count=count, dim=generator.latent_dim)
    latents = torch.from_numpy(drawn.astype(np.float32)).to(device)
    return latents, (torch.arange(count) % max(generator.num_classes, 1)).to(device)


def probe_generator(generator: Generator, *, batch_size: int, device: torch.device, truncation: float = 1.0) -> None:
    """Three small passes that an honest generator survives: finite, in range, repeatable, and one image per latent.

    Raises:
        ValueError: it does not; the message says what it did and the usual reason.
    """
    count = generator.fixed_batch_size or min(batch_size, _PROBE_SIZE)
    latents, labels = probe_inputs(generator, count=count, device=device, truncation=truncation)
    half = count // 2
    others = torch.cat([latents[:half], -latents[half:]])
    with reproducible_arithmetic(device):
        images = generator.sample(latents, labels).clone()
        again = generator.sample(latents, labels).clone()
        beside_others = generator.sample(others, labels)
    name = generator.name
    if not images.isfinite().all():
        raise ValueError(f"{name}: its images hold NaN or infinity: check its weights, or give --dtype float32")
    low, high = float(images.min()), float(images.max())
    if max(-low, high) > _WIDEST_VALUE:
        raise ValueError(f"{name}: its values go from {low:.3g} to {high:.3g}: give images in [-1, 1]")
    if 0 <= low < high:
        raise ValueError(
            f"{name}: its values go from {low:.3g} to {high:.3g}, as in [0, 1]: give images in [-1, 1], 2 * x - 1"
        )
    if not torch.equal(images, again):
        raise ValueError(
            f"{name}: the same latents gave other images the second time: put the model into eval mode, and its noise "
            "under a fixed seed or off"
        )
    if half and float((images[:half] - beside_others[:half]).abs().mean()) > _NEIGHBOUR_TOLERANCE:
        raise ValueError(
            f"{name}: a latent's image changes with the others of its batch: put the model into eval mode, so that its "
            "norms use stored statistics"
        )
