"""Learning linear walks: one vector per edit, along which the generator's images change as the edit changes pixels.

    w* = argmin_w E_{z, alpha} | mask * (G(z + alpha w) - edit(G(z), alpha)) |^2

The objective of "On the steerability of generative adversarial networks" (Jahanian, Chai and Isola 2020) with their
mask: pixels that the edit brings in from outside the frame do not count. One vector serves all classes. Alphas are
uniform in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shards.numbers import check_whole
from shards.progress import Progress
from synthgen.adapters import DEFAULT_GENERATOR, load_generator
from synthgen.adapters.protocol import DifferentiableGenerator
from synthgen.devices import choose_device
from synthgen.draws import draw_labels, draw_truncated_normal, draw_uniform
from synthgen.steer.edits import EDITS, apply_edit
from synthgen.vectors import VectorSet, check_vector_path, write_vectors

ANCHORS_PER_STEP = 4  # each is walked along every edit
LEARNING_RATE = 0.02
NUM_JUDGED = 64


def train(
    *,
    out: str | Path,
    edit: str | Sequence[str] | None = None,
    generator: str = DEFAULT_GENERATOR,
    weights: str | Path | None = None,
    truncation: float = 1.0,
    steps: int = 600,
    seed: int = 0,
    device: str = "auto",
    quiet: bool = False,
) -> VectorSet:
    """Learns one walk per edit, judges it on anchors that it has not seen, and writes all of them to `out`.

    Args:
        edit: `zoom,shift_x`, a list of names, or None for every edit.
        steps: of 4 anchors, each walked along every edit.

    Raises:
        ValueError: no such edit or generator, or a generator that lets no gradients through.
    """
    path, edits = check_vector_path(out), parse_edits(edit)
    steps, seed = check_whole("steps", steps, 1), check_whole("seed", seed, 0)
    place = choose_device(device)
    model = load_generator(generator, weights=weights, truncation=truncation, device=place)
    if not isinstance(model, DifferentiableGenerator):
        raise ValueError(f"{generator} lets no gradients through: its adapter has no `differentiable`")
    walks = fit_walks(model, edits=edits, truncation=truncation, steps=steps, seed=seed, device=place, quiet=quiet)
    explained = judge_walks(model, walks, edits=edits, truncation=truncation, seed=seed, device=place)
    settings = {
        "truncation": float(truncation),
        "steps": steps,
        "seed": seed,
        "dtype": model.dtype,
        "largest": {name: EDITS[name].largest for name in edits},
        "explained": {name: round(share, 4) for name, share in explained.items()},
    }
    return write_vectors(path, kind="walks", names=edits, matrix=walks.numpy(), generator=model, settings=settings)


def fit_walks(
    generator: DifferentiableGenerator,
    *,
    edits: Sequence[str],
    truncation: float,
    steps: int,
    seed: int,
    device: torch.device,
    quiet: bool,
) -> Tensor:
    """The walks [edits, latent_dim], float32 on the CPU. Adam, the rate falling to zero along a quarter of a cosine."""
    walks = torch.zeros(len(edits), generator.latent_dim, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([walks], lr=LEARNING_RATE, betas=(0.9, 0.99))
    with Progress(total=steps, unit="steps", label="learning walks", quiet=quiet) as progress:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * math.cos(math.pi / 2 * step / steps)
            latents, labels, alphas = _draw(
                generator,
                stream="steer/train",
                seed=seed,
                first=step * ANCHORS_PER_STEP,
                count=ANCHORS_PER_STEP,
                num_edits=len(edits),
                truncation=truncation,
                device=device,
            )
            errors = walk_errors(generator, walks, latents, labels, alphas, edits=edits)
            loss = errors.mean()
            walks.grad = _gradient(loss, walks)
            if walks.grad is None:
                raise ValueError(f"{generator.name} lets no gradients through: leave torch.no_grad out of its sample")
            optimizer.step()
            progress.advance(1, **({"loss": f"{loss.item():.4f}"} if step % 10 == 0 else {}))
    return walks.detach().float().cpu()


def walk_errors(
    generator: DifferentiableGenerator,
    walks: Tensor,
    latents: Tensor,
    labels: Tensor,
    alphas: Tensor,
    *,
    edits: Sequence[str],
) -> Tensor:
    """Masked mean squared errors [B, edits] of walked images against edited ones; gradients reach the walks.

    latents [B, latent_dim], labels [B], alphas [B, edits].
    """
    with torch.no_grad():
        anchors = generator.differentiable(latents, labels)
    targets, masks = zip(
        *(apply_edit(name, anchors, alphas[:, number]) for number, name in enumerate(edits)), strict=True
    )
    walked = latents[:, None] + alphas[:, :, None] * walks[None]  # [B, edits, latent_dim]
    images = generator.differentiable(
        walked.transpose(0, 1).reshape(-1, generator.latent_dim), labels.repeat(len(edits))
    )
    return masked_errors(images, torch.cat(targets), torch.cat(masks)).view(len(edits), -1).t()


def _gradient(loss: Tensor, walks: Tensor) -> Tensor | None:
    """Of the walks alone, and of no weight; None where none arrives."""
    return torch.autograd.grad(loss, walks, allow_unused=True)[0] if loss.requires_grad else None


def masked_errors(images: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
    """Mean squared error [B] over the pixels that the mask keeps, images [B, 3, H, W] and masks [B, 1, H, W]."""
    squares = ((images - targets) ** 2).mean(dim=1, keepdim=True) * masks
    return squares.sum(dim=(1, 2, 3)) / masks.sum(dim=(1, 2, 3)).clamp(min=1)


@torch.no_grad()
def judge_walks(
    generator: DifferentiableGenerator,
    walks: Tensor,
    *,
    edits: Sequence[str],
    truncation: float,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """Share of each edit that its walk makes, on anchors that no step has seen: 1 - error / error of not walking.

    0 for a walk that does nothing, 1 for the edit itself; below 0 the walk does harm.
    """
    walked, still = torch.zeros(len(edits)), torch.zeros(len(edits))
    for first in range(0, NUM_JUDGED, ANCHORS_PER_STEP):
        latents, labels, alphas = _draw(
            generator,
            stream="steer/judge",
            seed=seed,
            first=first,
            count=ANCHORS_PER_STEP,
            num_edits=len(edits),
            truncation=truncation,
            device=device,
        )
        for total, candidate in ((walked, walks.to(device)), (still, torch.zeros_like(walks, device=device))):
            errors = walk_errors(generator, candidate, latents, labels, alphas, edits=edits)
            total += errors.sum(dim=0).cpu()
    return {name: float(1 - walked[i] / still[i]) for i, name in enumerate(edits)}


def _draw(
    generator: DifferentiableGenerator,
    *,
    stream: str,
    seed: int,
    first: int,
    count: int,
    num_edits: int,
    truncation: float,
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents [B, latent_dim], labels [B] and alphas [B, edits] of the anchors first … first + count - 1."""
    latents = truncation * draw_truncated_normal(
        seed=seed, stream=stream, first=first, count=count, dim=generator.latent_dim
    )
    alphas = 2 * draw_uniform(seed=seed, stream=f"{stream}/alpha", first=first, count=count, dim=num_edits) - 1
    labels = draw_labels(seed=seed, first=first, count=count, classes=tuple(range(generator.num_classes)))
    return (
        torch.from_numpy(latents.astype(np.float32)).to(device),
        torch.from_numpy(labels).clamp(min=0).to(device),
        torch.from_numpy(alphas.astype(np.float32)).to(device),
    )


def parse_edits(edits: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of edits, in the table's order, from `zoom,shift_x`, a list of names, or None for all.

    Raises:
        ValueError: no such edit, one twice, or none at all.
    """
    if edits is None:
        return tuple(EDITS)
    names = [name.strip() for name in (edits.split(",") if isinstance(edits, str) else edits)]
    if not names:
        raise ValueError(f"no edit given: choose from {', '.join(EDITS)}")
    for name in names:
        if name not in EDITS:
            raise ValueError(f"no edit '{name}': choose from {', '.join(EDITS)}")
        if names.count(name) > 1:
            raise ValueError(f"edit {name} is given twice: give every edit once")
    return tuple(name for name in EDITS if name in names)


def describe_walks(walks: VectorSet) -> Iterator[str]:
    """A line per walk: what it is worth."""
    explained = walks.settings.get("explained", {})
    for name in walks.names:
        share = f"makes {explained[name]:.0%} of the edit" if name in explained else "not judged"
        yield f"{name:<12}{share}; alpha 1: {EDITS[name].meaning if name in EDITS else 'of its own kind'}"
