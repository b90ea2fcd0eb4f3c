"""One contrastive loss for every objective: a softmax cross-entropy over ids with any number of positives.

Two images share an id exactly when they should be pulled together. With one id per pair this is SimCLR's NT-Xent,
with class ids it is SupCon's L_out, with K images per group the multi-positive loss. So the objectives differ in
their ids alone (see `contrast.objectives.contrastive`), and there is one piece of arithmetic to get right:

    loss = multi_positive_loss(projections, ids, temperature=0.5)
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def multi_positive_loss(projections: Tensor, ids: Tensor, *, temperature: float) -> Tensor:
    """Mean over anchors of -1/|P(i)| sum over p in P(i) of log softmax(z_i . z_a / temperature) at p, among all a != i.

    P(i) holds the other images with the id of i. An anchor without positives contributes nothing and is not counted in
    the mean; without a single positive in the whole batch the loss is zero. Khosla et al. 2020, eq. 2 (L_out); with two
    images per id Chen et al. 2020, eq. 1. Nothing is rescaled by the temperature.

    In a process group the candidates come from all ranks, with gradient. The value returned by a rank is such that
    the mean over ranks, which is also what DistributedDataParallel does to gradients, equals the loss of the whole
    batch in one process. Computed in float32 whatever the input and the surrounding autocast; never synchronises with
    the host.

    Args:
        projections: [N, D] of this rank, any length per row; they are normalised here. N is the same on all ranks.
        ids: [N] int64.
        temperature: positive.

    Returns:
        A float32 scalar (float64 for float64 input).

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: give a number above 0")
    with torch.autocast(projections.device.type, enabled=False):
        dtype = torch.promote_types(projections.dtype, torch.float32)
        anchors = F.normalize(projections.to(dtype), dim=1)  # [N, D]
        candidates, candidate_ids, rank, world_size = _gather_candidates(anchors, ids)
        places = torch.arange(len(candidates), device=anchors.device)
        own = places[rank * len(anchors) :][: len(anchors)]  # where the anchors themselves stand among the candidates

        logits = anchors @ candidates.T / temperature  # [N, N * world_size]
        is_self = own[:, None] == places[None, :]
        positives = (ids[:, None] == candidate_ids[None, :]) & ~is_self
        log_denominator = torch.logsumexp(logits.masked_fill(is_self, -torch.inf), dim=1)  # [N]

        num_positives = positives.sum(dim=1)
        counted = num_positives > 0
        mean_positive = (logits * positives).sum(dim=1) / num_positives.clamp(min=1)
        total = ((log_denominator - mean_positive) * counted).sum()
        num_counted = counted.sum()
        if world_size > 1:
            dist.all_reduce(num_counted)
        return total * world_size / num_counted.clamp(min=1)


def _gather_candidates(anchors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, int, int]:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return anchors, ids, 0, 1
    world_size = dist.get_world_size()
    gathered_ids = [torch.empty_like(ids) for _ in range(world_size)]
    dist.all_gather(gathered_ids, ids.contiguous())
    return gather_rows(anchors), torch.cat(gathered_ids), dist.get_rank(), world_size


def gather_rows(rows: Tensor) -> Tensor:
    """All ranks' rows in rank order, with gradient; the rows themselves outside a process group.

    The gradient of a row is the sum of what every rank has to say about it.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    return _GatherWithGradient.apply(rows)


class _GatherWithGradient(torch.autograd.Function):
    """See `gather_rows`."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        # The sum, not this rank's slice alone: the widely copied slice loses the other ranks' terms.
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
