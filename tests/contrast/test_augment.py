"""Every operation against its namesake in torchvision for fixed parameters, and who draws what."""

from __future__ import annotations

import dataclasses
import hashlib
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision import transforms
from torchvision.transforms.v2 import functional as reference

from contrast.augment import (
    FIELD_OF_WORD,
    AugmentConfig,
    AugmentDraws,
    augment,
    compile_operations,
    draw_augmentation,
    parse_augment,
)
from contrast.config import TrainConfig
from contrast.pixels import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    blur_kernel_size,
    crop_and_flip,
    gaussian_blur,
    solarize,
)
from contrast.run_folder import FORMAT
from contrast.run_options import RunOptions
from contrast.training import train_encoder


def random_images(count: int = 4, height: int = 20, width: int = 20, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("mine", "theirs", "values"),
    [
        (adjust_brightness, reference.adjust_brightness, [0.0, 0.6, 1.0, 1.7]),
        (adjust_contrast, reference.adjust_contrast, [0.0, 0.6, 1.0, 1.7]),
        (adjust_saturation, reference.adjust_saturation, [0.0, 0.6, 1.0, 1.7]),
        (adjust_hue, reference.adjust_hue, [-0.5, -0.1, 0.0, 0.37]),
    ],
)
def test_colours_equal_torchvision(mine, theirs, values) -> None:  # type: ignore[no-untyped-def]
    images = random_images()
    images[1] = images[1].mean()  # a gray image has no hue
    images[2, :, :10] = 0
    adjusted = mine(images.clone(), torch.tensor(values))
    expected = torch.stack([theirs(image, value) for image, value in zip(images, values, strict=True)])
    torch.testing.assert_close(adjusted, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("box", [(0, 0, 20, 24), (3, 5, 9, 7), (19, 23, 1, 1), (2, 0, 18, 24)])
@pytest.mark.parametrize("flipped", [True, False])
def test_crop_and_flip_equal_torchvision(box: tuple[int, int, int, int], flipped: bool, antialias: bool) -> None:
    images = random_images(count=2, height=20, width=24)
    top, left, height, width = box
    shares = [torch.full((2,), value) for value in (top / 20, left / 24, height / 20, width / 24)]
    mine = crop_and_flip(images, *shares, torch.tensor([flipped, False]))
    expected = reference.resized_crop(images, top, left, height, width, [20, 24], antialias=antialias)
    if flipped:
        expected[0] = reference.horizontal_flip(expected[0])
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(20, 24), (32, 32), (70, 50)])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_equals_torchvision(height: int, width: int, sigma: float) -> None:
    images = random_images(count=2, height=height, width=width)
    kernel = [blur_kernel_size(width), blur_kernel_size(height)]
    expected = reference.gaussian_blur(images[:1], kernel, [sigma, sigma])
    mine = gaussian_blur(images, torch.tensor([sigma, 0.0]))
    torch.testing.assert_close(mine[:1], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(mine[1], images[1])


def test_the_blur_of_the_published_size() -> None:
    assert [blur_kernel_size(size) for size in (32, 64, 128, 224)] == [3, 7, 13, 23]  # SimCLR: a tenth of the side


def test_solarize_equals_torchvision() -> None:
    images = random_images(count=2)
    images[0, 0, 0, 0] = 0.5
    mine = solarize(images, torch.tensor([True, False]))
    assert torch.equal(mine[0], reference.solarize(images[0], 0.5))
    assert torch.equal(mine[1], images[1])


def test_blur_and_solarize_come_last() -> None:
    pixels = torch.randint(0, 256, (1, 20, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = augment(pixels, whole_image(contrast=1.4))
    draws = dataclasses.replace(whole_image(contrast=1.4), blur=torch.tensor([1.2]), solarize=torch.tensor([True]))
    expected = reference.solarize(reference.gaussian_blur(before, [3, 3], [1.2, 1.2]), 0.5)
    torch.testing.assert_close(augment(pixels, draws), expected, atol=1e-4, rtol=0)


def test_grayscale_equals_torchvision_and_colours_run_in_the_documented_order() -> None:
    pixels = torch.randint(0, 256, (1, 20, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    values = {"brightness": 1.3, "contrast": 0.7, "saturation": 1.4, "hue": 0.08}
    image = pixels.permute(0, 3, 1, 2) / 255
    for name, value in values.items():
        image = getattr(reference, f"adjust_{name}")(image, value)
    torch.testing.assert_close(augment(pixels, whole_image(**values)), image, atol=2e-5, rtol=1e-5)
    gray = reference.rgb_to_grayscale(image, num_output_channels=3)
    torch.testing.assert_close(augment(pixels, whole_image(**values, gray=1.0)), gray, atol=2e-5, rtol=1e-5)


def whole_image(**values: float) -> AugmentDraws:
    neutral = {"top": 0.0, "left": 0.0, "height": 1.0, "width": 1.0, "hue": 0.0, "gray": 0.0}
    neutral |= {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
    tensors = {name: torch.tensor([value]) for name, value in (neutral | values).items()}
    return AugmentDraws(flip=torch.tensor([False]), **tensors)


def test_neutral_parameters_change_nothing() -> None:
    pixels = torch.randint(0, 256, (1, 20, 20, 3), dtype=torch.uint8)
    torch.testing.assert_close(augment(pixels, whole_image()), pixels.permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0)


def test_compiled_operations_are_one_graph_and_give_the_same() -> None:
    pixels = torch.randint(0, 256, (70, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draws = draw_augmentation(AugmentConfig(blur=0.5, solarize=0.2), count=70, seed=0, step=0)
    compiled = augment(pixels, draws, operations=compile_operations(backend="eager"))  # two chunks, of 64 and 6
    torch.testing.assert_close(compiled, augment(pixels, draws))


def test_compiling_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"--compile needs a C\+\+ compiler"):
        compile_operations()


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    pixels = torch.randint(0, 256, (150, 16, 16, 3), dtype=torch.uint8)
    draws = draw_augmentation(AugmentConfig(), count=150, seed=0, step=0)
    together = augment(pixels, draws)
    for row in (0, 63, 64, 149):
        torch.testing.assert_close(together[row : row + 1], augment(pixels[row : row + 1], draws.rows(row, row + 1)))


def test_draws_depend_on_seed_and_step_alone() -> None:
    one = draw_augmentation(AugmentConfig(blur=0.5, solarize=0.5), count=32, seed=0, step=7)
    torch.manual_seed(123)
    same = draw_augmentation(AugmentConfig(blur=0.5, solarize=0.5), count=32, seed=0, step=7)
    for field in dataclasses.fields(AugmentDraws):
        assert torch.equal(getattr(one, field.name), getattr(same, field.name)), field.name
    for other in (
        draw_augmentation(AugmentConfig(blur=0.5, solarize=0.5), count=32, seed=s, step=t) for s, t in ((1, 7), (0, 8))
    ):
        assert not torch.equal(one.top, other.top)


def test_a_run_draws_for_all_images_of_a_batch_by_its_seed_and_the_step(
    groups: Path, tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, int]] = []

    def draw(config: AugmentConfig, **named: Any) -> AugmentDraws:
        asked.append(named)
        return draw_augmentation(config, **named)

    monkeypatch.setattr("contrast.training.draw_augmentation", draw)
    options = RunOptions(device="cpu", quiet=True)
    train_encoder(dataclasses.replace(config, seed=5), shards=groups, out=tmp_path / "run", options=options)
    assert asked == [{"count": 32, "seed": 5, "step": step} for step in range(6)]


def test_draws_of_the_defaults_are_those_of_every_cpu_and_of_this_version() -> None:
    """Other draws would make other runs of the same configuration: they need another format of the run's folder."""
    assert FORMAT == 2
    draws = draw_augmentation(AugmentConfig(), count=512, seed=3, step=17)
    values = torch.stack([getattr(draws, f.name).double() for f in dataclasses.fields(draws)[:10]])
    assert hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16] == "30e10b7f732639dc"
    assert draws.blur is None and draws.solarize is None
    more = draw_augmentation(AugmentConfig(blur=0.5, solarize=0.2), count=512, seed=3, step=17)
    for field in dataclasses.fields(draws)[:10]:
        assert torch.equal(getattr(draws, field.name), getattr(more, field.name)), field.name
    assert more.blur is not None and more.solarize is not None
    assert (more.blur > 0).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert more.blur[more.blur > 0].min() >= 0.1 and 1.9 < more.blur.max() <= 2.0
    assert more.solarize.float().mean().item() == pytest.approx(0.2, abs=0.06)


def test_draws_travel_together() -> None:
    draws = draw_augmentation(AugmentConfig(blur=0.5), count=6, seed=0, step=0)
    assert draws.to(torch.device("cpu")) is draws
    there = draws.to(torch.device("meta"))
    for field in dataclasses.fields(draws):
        mine, theirs = getattr(draws, field.name), getattr(there, field.name)
        assert (mine is None) == (theirs is None), field.name
        if mine is not None:
            assert (theirs.device.type, theirs.shape, theirs.dtype) == ("meta", mine.shape, mine.dtype), field.name


def test_settings_from_text() -> None:
    assert parse_augment("crop=0.3:1, blur=0.5,solarize=0") == AugmentConfig(crop_scale=(0.3, 1), blur=0.5)
    assert parse_augment("sigma=0.5:1.5,ratio=1:1,hue=0").blur_sigma == (0.5, 1.5)
    assert parse_augment("ratio=0.5:0.75") == AugmentConfig(crop_ratio=(0.5, 0.75))
    for word in set(FIELD_OF_WORD) - {"crop", "ratio", "sigma"}:
        assert parse_augment(f"{word}=0.125") == AugmentConfig(**{word: 0.125}), word
    for text, message in (("", "unknown ''"), ("flip", "flip takes a number"), ("crop=1", "crop takes two numbers")):
        with pytest.raises(ValueError, match=message):
            parse_augment(text)


def test_every_sample_and_every_process_draws_its_own() -> None:
    draws = draw_augmentation(AugmentConfig(jitter=1.0), count=64, seed=0, step=0)
    first, second = draws.rows(0, 32), draws.rows(32, 64)
    for name in ("top", "left", "height", "brightness", "contrast", "saturation", "hue"):
        assert len(getattr(draws, name).unique()) > 50, name  # not one draw for the whole batch
        assert not torch.equal(getattr(first, name), getattr(second, name)), name  # nor one for every process


def test_one_draw_of_a_sample_tells_nothing_of_another() -> None:
    draws = draw_augmentation(AugmentConfig(blur=0.5, solarize=0.5), count=4000, seed=0, step=0)
    columns = {name: getattr(draws, name).double() > 0 for name in ("flip", "gray", "blur", "solarize")}
    columns["jitter"] = draws.hue != 0
    for one, other in combinations(columns, 2):
        assert abs(np.corrcoef(columns[one], columns[other])[0, 1]) < 0.06, (one, other)


def test_draws_stay_in_their_ranges() -> None:
    config = AugmentConfig(crop_scale=(0.3, 0.9), brightness=0.2, hue=0.05, jitter=0.5, gray=0.25, flip=0.5)
    draws = draw_augmentation(config, count=4000, seed=0, step=0)
    area, ratio = draws.height * draws.width, draws.width / draws.height
    assert 0.3 - 1e-5 <= area.min() < 0.35 and 0.85 < area.max() <= 0.9 + 1e-5
    assert ratio.min() >= 3 / 4 - 1e-4 and ratio.max() <= 4 / 3 + 1e-4
    assert (draws.top + draws.height).max() <= 1 + 1e-6 and draws.top.min() >= 0
    assert draws.brightness.min() >= 0.8 and draws.brightness.max() <= 1.2
    assert draws.hue.abs().max() <= 0.05
    assert (draws.brightness == 1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert draws.flip.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert draws.gray.mean().item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"crop_scale": (0.0, 1.0)}, "crop-scale"),
        ({"flip": 1.5}, "flip"),
        ({"hue": 0.6}, "hue"),
        ({"crop_ratio": (2, 1)}, "ratio"),
        ({"blur_sigma": (0, 1)}, "blur-sigma"),
        ({"solarize": -0.1}, "solarize"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, word: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=word):
        AugmentConfig(**settings)


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [
        ((0.2, 1.0), (3 / 4, 4 / 3)),
        ((0.9, 1.0), (1 / 4, 4.0)),  # most attempts lie outside, and some samples run out of them
        ((0.5, 1.0), (3.0, 4.0)),  # all do
        ((0.5, 1.0), (1 / 4, 1 / 3)),
    ],
)
def test_crops_are_distributed_as_torchvision_s(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    draws = draw_augmentation(AugmentConfig(crop_scale=scale, crop_ratio=ratio), count=5000, seed=0, step=0)
    size = 10_000  # they round to pixels
    image = torch.zeros(1, size, size)
    torch.manual_seed(0)
    theirs = [transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(5000)]
    for name, column in zip(("top", "left", "height", "width"), np.array(theirs).T / size, strict=True):
        assert ks_2samp(getattr(draws, name).double().numpy().round(3), column.round(3)).pvalue > 1e-4, name


def test_a_crop_that_ran_out_of_attempts_lies_in_the_centre() -> None:
    draws = draw_augmentation(AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(2.0, 4.0)), count=3, seed=0, step=0)
    assert draws.width.tolist() == [1, 1, 1] and draws.height.tolist() == [0.5, 0.5, 0.5]
    assert draws.left.tolist() == [0, 0, 0] and draws.top.tolist() == [0.25, 0.25, 0.25]
