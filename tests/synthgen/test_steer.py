"""Edits against torchvision, masks against brute force, and learning against generators whose walks are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torchvision.transforms import InterpolationMode

import synthgen
from synthgen.steer.edits import EDITS, apply_edit
from synthgen.steer.learning import fit_walks, judge_walks, masked_errors, parse_edits, walk_errors
from synthgen.vectors import VectorSet, read_vectors

CPU = torch.device("cpu")
SIZE = 12
IMAGES = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
ALPHAS = torch.tensor([-1.0, -0.37, 0.8])


# ---------------------------------------------------------------------------------------------------------------------
# Edits


def by_torchvision(name: str, image: torch.Tensor, amount: float) -> torch.Tensor:
    """The same edit of one image [3, H, W] in [0, 1]; torchvision moves by whole pixels only when told so in pixels."""
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0]}
    changes = {
        "zoom": {"scale": amount},
        "shift_x": {"translate": [amount * SIZE, 0]},
        "shift_y": {"translate": [0, amount * SIZE]},
        "rotate": {"angle": -amount},  # affine turns clockwise
    }
    if name == "brightness":
        return TF.adjust_brightness(image, amount)
    if name == "colour":
        return TF.adjust_saturation(image, amount)
    return TF.affine(image, **{**still, **changes[name]}, interpolation=InterpolationMode.BILINEAR, fill=[0.0])


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_torchvisions_where_the_mask_keeps_them(name: str) -> None:
    edited, mask = apply_edit(name, IMAGES, ALPHAS)
    assert edited.shape == IMAGES.shape and mask.shape == (3, 1, SIZE, SIZE)
    amounts = EDITS[name].amounts(ALPHAS)
    expected = torch.stack(
        [by_torchvision(name, (image + 1) / 2, float(a)) for image, a in zip(IMAGES, amounts, strict=True)]
    )
    kept = mask.expand_as(edited).bool()
    assert kept.float().mean() > 0.3
    torch.testing.assert_close(edited[kept], (expected * 2 - 1)[kept], rtol=0, atol=2e-5)
    assert (edited - IMAGES).abs().max() > 0.1, "the edit is seen"


@pytest.mark.parametrize("name", EDITS)
def test_alpha_zero_changes_nothing(name: str) -> None:
    edited, mask = apply_edit(name, IMAGES, torch.zeros(3))
    torch.testing.assert_close(edited, IMAGES, rtol=0, atol=1e-5)
    assert mask.min() == 1


def test_whole_turns_and_shifts_are_exact() -> None:
    quarter, mask = EDITS["rotate"].apply(IMAGES, torch.full((3,), 90.0))
    torch.testing.assert_close(quarter, torch.rot90(IMAGES, 1, (2, 3)), rtol=0, atol=1e-5)
    assert mask.min() == 1
    shifted, mask = EDITS["shift_x"].apply(IMAGES, torch.full((3,), 3 / SIZE))
    torch.testing.assert_close(shifted[..., 3:], IMAGES[..., :-3], rtol=0, atol=1e-5)
    assert mask[..., 3:].min() == 1 and mask[..., :3].max() == 0
    shifted, mask = EDITS["shift_y"].apply(IMAGES, torch.full((3,), -2 / SIZE))
    torch.testing.assert_close(shifted[:, :, :-2], IMAGES[:, :, 2:], rtol=0, atol=1e-5)
    assert mask[:, :, :-2].min() == 1 and mask[:, :, -2:].max() == 0


def source_of(name: str, row: int, column: int, amount: float) -> tuple[float, float]:
    """Where a pixel of the result comes from, in rows and columns of the original; the frame's centre is fixed."""
    centre = (SIZE - 1) / 2
    y, x = row - centre, column - centre
    if name == "zoom":
        y, x = y / amount, x / amount
    elif name == "shift_x":
        x -= amount * SIZE
    elif name == "shift_y":
        y -= amount * SIZE
    else:  # the result is turned counter-clockwise, rows run downwards: turn the place back
        angle = math.radians(amount)
        y, x = y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)
    return y + centre, x + centre


@pytest.mark.parametrize("name", ["zoom", "shift_x", "shift_y", "rotate"])
def test_masks_keep_exactly_what_the_frame_knows(name: str) -> None:
    """A double loop: a pixel counts when all that it is mixed from lies in the frame; and it is that mixture."""
    alphas = torch.linspace(-1, 1, 7)
    images = IMAGES[:1].expand(7, -1, -1, -1)
    edited, mask = apply_edit(name, images, alphas)
    original, amounts = images[0].double().numpy(), EDITS[name].amounts(alphas).tolist()
    left_out = 0
    for number, amount in enumerate(amounts):
        for row in range(SIZE):
            for column in range(SIZE):
                y, x = source_of(name, row, column, amount)
                on_the_edge = min(abs(y), abs(x), abs(y - SIZE + 1), abs(x - SIZE + 1)) < 1e-3
                inside = -1e-3 <= y <= SIZE - 1 + 1e-3 and -1e-3 <= x <= SIZE - 1 + 1e-3
                left_out += not inside
                if not on_the_edge:
                    assert bool(mask[number, 0, row, column]) == inside, (amount, row, column)
                if not inside:
                    continue
                y, x = min(max(y, 0), SIZE - 1), min(max(x, 0), SIZE - 1)
                top, left = min(int(y), SIZE - 2), min(int(x), SIZE - 2)
                square = original[:, top : top + 2, left : left + 2]
                weights = np.outer([1 - y + top, y - top], [1 - x + left, x - left])
                expected = (square * weights).sum(axis=(1, 2))
                np.testing.assert_allclose(edited[number, :, row, column].numpy(), expected, rtol=0, atol=2e-5)
    assert left_out > 50


def test_errors_count_kept_pixels_alone() -> None:
    images, targets = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    targets[0, :, :2] = 2.0
    targets[:, :, 2:] = 1000.0
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, :2] = 1
    assert masked_errors(images, targets, mask).tolist() == [4.0, 0.0]


# ---------------------------------------------------------------------------------------------------------------------
# Learning


class Lamp:
    """One soft spot: latents 0 and 1 move it right and down, latent 2 sets how bright it is; the others do nothing."""

    name, weights_sha256, image_size, latent_dim, num_classes = "lamp", "0" * 64, 24, 6, 0
    class_names: tuple[str, ...] = ()
    step = 0.2

    def differentiable(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        places = (torch.arange(24) + 0.5) / 12 - 1
        x, y = self.step * latents[:, 0, None, None], self.step * latents[:, 1, None, None]
        spot = torch.exp(-((places[None, None] - x) ** 2 + (places[None, :, None] - y) ** 2) / 0.1)
        light = 0.5 * 1.6 ** latents[:, 2, None, None]
        return (spot * light * 2 - 1)[:, None].expand(-1, 3, -1, -1)


def test_walks_of_a_generator_that_can_are_found() -> None:
    """A quarter of the frame is 0.5 of its half: the spot moves by 0.2 a unit, so the walk is 2.5 units long."""
    edits = ("shift_x", "shift_y", "brightness")
    walks = fit_walks(Lamp(), edits=edits, truncation=1.0, steps=400, seed=0, device=CPU, quiet=True)  # type: ignore[arg-type]
    expected = torch.zeros(3, 6)
    expected[0, 0] = expected[1, 1] = 2.5
    expected[2, 2] = 1.0
    # Bright spots are clamped by the edit and not by the lamp: that walk is found less exactly.
    torch.testing.assert_close(walks[:2], expected[:2], rtol=0, atol=0.15)
    torch.testing.assert_close(walks[2], expected[2], rtol=0, atol=0.3)
    judged = judge_walks(Lamp(), walks, edits=edits, truncation=1.0, seed=0, device=CPU)  # type: ignore[arg-type]
    assert judged["shift_x"] > 0.95 and judged["shift_y"] > 0.95 and judged["brightness"] > 0.5
    still = judge_walks(Lamp(), 0 * walks, edits=edits, truncation=1.0, seed=0, device=CPU)  # type: ignore[arg-type]
    assert list(still.values()) == [0, 0, 0]
    harm = judge_walks(Lamp(), -walks, edits=edits, truncation=1.0, seed=0, device=CPU)  # type: ignore[arg-type]
    assert max(harm.values()) < 0


def test_errors_of_walks_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    latents, alphas = torch.randn(4, 6, generator=generator), torch.rand(4, 2, generator=generator) * 2 - 1
    walks, labels = torch.randn(2, 6, generator=generator), torch.zeros(4, dtype=torch.int64)
    edits, lamp = ("zoom", "shift_x"), Lamp()
    found = walk_errors(lamp, walks, latents, labels, alphas, edits=edits)  # type: ignore[arg-type]
    for row in range(4):
        for column, name in enumerate(edits):
            anchor = lamp.differentiable(latents[row : row + 1], labels[:1])
            target, mask = apply_edit(name, anchor, alphas[row, column : column + 1])
            image = lamp.differentiable(latents[row : row + 1] + alphas[row, column] * walks[column], labels[:1])
            squares = ((image - target) ** 2)[mask.expand_as(image).bool()]
            assert found[row, column].item() == pytest.approx(squares.mean().item(), rel=1e-4)


def test_gradients_reach_the_latents_of_biggan(tiny_weights: Path) -> None:
    generator = synthgen.load_generator(weights=tiny_weights, device="cpu", dtype="float32")
    latents = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 4, 7])
    torch.testing.assert_close(generator.differentiable(latents, labels), generator.sample(latents, labels))

    direction = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    moving = latents.clone().requires_grad_(True)
    (generator.differentiable(moving, labels) ** 2).sum().backward()
    assert moving.grad is not None
    slope = (moving.grad * direction).sum().item()
    ends = [(generator.sample(latents + e * direction, labels).double() ** 2).sum().item() for e in (-5e-3, 5e-3)]
    assert slope == pytest.approx((ends[1] - ends[0]) / 1e-2, rel=0.02)


@pytest.fixture(scope="module")
def learned(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, VectorSet]:
    """Two walks of the tiny generator, after a few steps."""
    path = tmp_path_factory.mktemp("walks") / "walks.safetensors"
    walks = synthgen.steer.train(
        out=path, edit="brightness,zoom", weights=tiny_weights, steps=30, seed=1, device="cpu", truncation=0.8
    )
    return path, walks


def test_training_writes_walks_that_say_how_they_were_made(
    learned: tuple[Path, VectorSet], tiny_weights: Path, tmp_path: Path
) -> None:
    path, walks = learned
    assert walks == read_vectors(path, kind="walks") and walks.names == ("zoom", "brightness"), "in the table's order"
    assert walks.settings["truncation"] == 0.8 and walks.settings["steps"] == 30
    assert walks.settings["explained"]["brightness"] > 0.01, "on anchors that no step has seen"
    again = synthgen.steer.train(
        out=tmp_path / "again.safetensors",
        edit=["zoom", "brightness"],
        weights=tiny_weights,
        steps=30,
        seed=1,
        device="cpu",
        truncation=0.8,
    )
    np.testing.assert_allclose(again.matrix, walks.matrix, rtol=0, atol=1e-3)


def test_strips_show_the_walk(learned: tuple[Path, VectorSet], tiny_weights: Path, tmp_path: Path) -> None:
    path, _ = learned
    plain = synthgen.steer.show(walks=path, weights=tiny_weights, samples=2, out=tmp_path / "a.png", device="cpu")
    with_pixels = synthgen.steer.show(
        walks=path, weights=tiny_weights, samples=2, edits="zoom", pixels=True, out=tmp_path / "b.png", device="cpu"
    )
    with Image.open(plain) as a, Image.open(with_pixels) as b:
        assert a.size == b.size, "two edits of two samples, and one edit of two samples with the pixels beneath"
    assert plain.read_bytes() != with_pixels.read_bytes()


@pytest.mark.parametrize(
    ("edits", "message"),
    [("dolly", "no edit 'dolly': choose from zoom"), ("zoom,zoom", "given twice"), ([], "no edit")],
)
def test_wrong_edits_are_named(edits: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_edits(edits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps 0: give a whole number from 1 on"),
        ({"seed": -1}, "seed -1: give a whole number from 0 on"),
        ({"edit": "dolly"}, "no edit 'dolly'"),
        ({"generator": "gan9"}, "no generator 'gan9'"),
        ({"out": "walks.pt"}, r"ends in \.safetensors"),
        ({"out": "/no/such/walks.safetensors"}, "there is no folder"),
    ],
)
def test_training_refuses_what_cannot_work(
    tiny_weights: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    standard = {"out": tmp_path / "w.safetensors", "weights": tiny_weights, "device": "cpu", "steps": 1}
    with pytest.raises(ValueError, match=message):
        synthgen.steer.train(**(standard | options))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples 0: give a whole number"),
        ({"strength": 0.0}, "strength 0.0: give a number from 0.01"),
        ({"edits": "rotate"}, "no walk 'rotate' in the file: choose from zoom, brightness"),
        ({"out": "strip.jpg"}, r"ends in \.png"),
    ],
)
def test_strips_refuse_what_cannot_work(
    learned: tuple[Path, VectorSet], tiny_weights: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    standard = {"out": tmp_path / "s.png", "walks": learned[0], "weights": tiny_weights, "device": "cpu"}
    with pytest.raises(ValueError, match=message):
        synthgen.steer.show(**(standard | options))  # type: ignore[arg-type]


def test_walks_of_other_weights_are_refused(
    learned: tuple[Path, VectorSet], network_maker: Callable, package_layout: Callable, tmp_path: Path
) -> None:
    package_layout(tmp_path / "weights", network_maker(seed=1))
    with pytest.raises(ValueError, match=r"the walks .* belong to biggan-deep-32 with weights"):
        synthgen.steer.show(out=tmp_path / "s.png", walks=learned[0], weights=tmp_path / "weights", device="cpu")
