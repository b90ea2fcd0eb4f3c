"""The loss against a double loop, the published definitions, and what must not change it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contrast.losses import multi_positive_loss


def loop_loss(projections: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """The definition, read off the paper: one anchor and one positive at a time."""
    z = projections / projections.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and ids[p] == ids[i]]
        if not positives:
            continue
        denominator = sum(torch.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
        terms.append(-sum(z[i] @ z[p] / temperature - torch.log(denominator) for p in positives) / len(positives))
    return torch.stack(terms).mean()


def random_case(num: int = 14, dim: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    projections = torch.randn(num, dim, generator=generator, dtype=torch.float64)
    ids = torch.randint(0, 5, (num,), generator=generator)
    ids[-1] = 99  # nobody else has this one
    return projections, ids


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_double_loop(temperature: float, seed: int) -> None:
    projections, ids = random_case(seed=seed)
    mine, loop = projections.clone().requires_grad_(), projections.clone().requires_grad_()
    loss, expected = multi_positive_loss(mine, ids, temperature=temperature), loop_loss(loop, ids, temperature)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mine.grad, loop.grad, rtol=1e-10, atol=1e-12)


def test_float32_is_close_to_the_double_loop() -> None:
    projections, ids = random_case(num=64, dim=16)
    loss = multi_positive_loss(projections.float(), ids, temperature=0.1)
    assert loss.dtype == torch.float32
    assert abs(loss.item() - loop_loss(projections, ids, 0.1).item()) < 1e-5


def test_pairs_give_simclr() -> None:
    """Chen et al. 2020, eq. 1: cross-entropy of the partner among all others."""
    first, second = torch.randn(2, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = F.normalize(torch.cat([first, second]), dim=1)
    logits = (z @ z.T / 0.5).fill_diagonal_(-math.inf)
    partners = torch.arange(16).roll(8)
    loss = multi_positive_loss(torch.cat([first, second]), torch.arange(8).repeat(2), temperature=0.5)
    torch.testing.assert_close(loss, F.cross_entropy(logits, partners))


def test_class_ids_give_supcon_with_the_sum_outside_the_logarithm() -> None:
    """Khosla et al. 2020, eq. 2 as in SupContrast's losses.py, without its factor temperature / base_temperature."""
    z = F.normalize(torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), dim=1)
    labels = torch.tensor([0, 1, 2] * 4)
    mask = (labels[:, None] == labels[None, :]).double().fill_diagonal_(0)
    logits = z @ z.T / 0.07
    log_prob = logits - torch.log((torch.exp(logits) * (1 - torch.eye(12))).sum(1, keepdim=True))
    expected = -((mask * log_prob).sum(1) / mask.sum(1)).mean()
    torch.testing.assert_close(multi_positive_loss(z, labels, temperature=0.07), expected)


def test_an_anchor_without_positives_is_not_counted() -> None:
    projections, _ = random_case(num=6)
    ids = torch.tensor([0, 0, 1, 1, 2, 3])
    torch.testing.assert_close(
        multi_positive_loss(projections, ids, temperature=0.5), loop_loss(projections, ids, 0.5)
    )  # the mean of four, where two more would make it two thirds


def test_no_positives_at_all_is_zero_with_zero_gradient() -> None:
    projections = torch.randn(4, 3, requires_grad=True)
    loss = multi_positive_loss(projections, torch.arange(4), temperature=0.5)
    loss.backward()
    assert loss.item() == 0
    assert projections.grad is not None and projections.grad.abs().max() == 0


def test_indistinguishable_images_give_the_chance_level() -> None:
    loss = multi_positive_loss(torch.ones(512, 4), torch.arange(256).repeat_interleave(2), temperature=0.2)
    assert loss.item() == pytest.approx(math.log(511), abs=1e-4)


def test_order_and_length_of_the_rows_do_not_matter() -> None:
    projections, ids = random_case()
    loss = multi_positive_loss(projections, ids, temperature=0.2)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(3))
    lengths = torch.rand(len(ids), 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(multi_positive_loss(projections[order], ids[order], temperature=0.2), loss)
    torch.testing.assert_close(multi_positive_loss(projections * lengths, ids, temperature=0.2), loss)


def test_bfloat16_input_is_computed_in_float32_even_under_autocast() -> None:
    projections = torch.randn(64, 32).bfloat16()
    ids = torch.arange(32).repeat_interleave(2)
    expected = multi_positive_loss(projections.float(), ids, temperature=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = multi_positive_loss(projections, ids, temperature=0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
