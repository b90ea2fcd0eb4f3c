"""What a probe finds wrong with anyone's model before anything is rendered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from synthgen.adapters.own_generator import OwnGenerator, usual_batch_size
from synthgen.adapters.probing import probe_generator
from synthgen.cli import main
from tests.synthgen.own_modules import OWN_GENERATOR

CPU = torch.device("cpu")
Module = Callable[[str, str], None]


class Good:
    """An honest model, of which the others below spoil one thing each."""

    latent_dim, image_size, num_classes = 4, 8, 3

    def sample(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        rows = torch.tanh(latents.sum(1) + labels)
        return rows[:, None, None, None].expand(-1, 3, 8, 8).clone()


def wrapped(model: object, **options: Any) -> OwnGenerator:
    settings: dict[str, Any] = {"name": "m:f", "weights_sha256": "0" * 64, "dtype": "float32", **options}
    return OwnGenerator(model, **settings)


def test_an_honest_model_survives_the_probe() -> None:
    for batch_size in (1, 2, 50):
        probe_generator(wrapped(Good()), batch_size=batch_size, device=CPU)
    assert wrapped(Good()).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("latent_dim", 0, r"m:f: latent_dim 0: give a whole number from 1"),
        ("latent_dim", 2.0, r"latent_dim 2\.0"),
        ("image_size", True, r"image_size True"),
        ("num_classes", -1, r"num_classes -1: give a whole number from 0"),
        ("class_names", ["a"], r"class_names has to be 3 texts"),
        ("class_names", "abc", r"class_names has to be 3 texts"),
        ("sample", None, r"no method sample"),
        ("weights_sha256", "abc", r"weights_sha256 'abc' is no sha256"),
    ],
)
def test_wrong_attributes_are_named(attribute: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        if attribute == "weights_sha256":
            wrapped(Good(), weights_sha256=value)
        else:
            wrapped(type("Spoilt", (Good,), {attribute: value})())


def test_missing_attributes_are_named() -> None:
    with pytest.raises(ValueError, match="m:f: its object has no image_size: give it one"):
        wrapped(object())


def spoilt(change: Callable[[torch.Tensor, torch.Tensor], Any]) -> Good:
    good = Good()
    return type(
        "Spoilt", (Good,), {"sample": lambda self, latents, labels: change(good.sample(latents, labels), latents)}
    )()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, z: x[:, :1], r"gave images \[8, 1, 8, 8\]: give \[8, 3, 8, 8\]"),
        (lambda x, z: x[0], r"gave images \[3, 8, 8\]"),
        (lambda x, z: x.permute(0, 2, 3, 1), r"gave images \[8, 8, 8, 3\]"),
        (lambda x, z: (x * 127 + 128).to(torch.uint8), r"images of torch\.uint8"),
        (lambda x, z: x.numpy(), r"gave a ndarray"),
        (lambda x, z: x / 0, r"NaN or infinity"),
        (lambda x, z: x * 127 + 127, r"go from .* give images in \[-1, 1\]"),
        (lambda x, z: x / 2 + 0.5, r"as in \[0, 1\]: give images in \[-1, 1\], 2 \* x - 1"),
        (lambda x, z: x + 0.01 * torch.randn_like(x), r"other images the second time: .* eval mode"),
        (lambda x, z: x - x.mean(0), r"changes with the others of its batch: .* eval mode"),
        (lambda x, z: z @ z, r"sample of latents \[8, 4\] failed \(RuntimeError"),
        (lambda x, z: x.to("meta"), r"images on meta for latents on cpu"),
    ],
)
def test_a_probe_says_what_is_wrong(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        probe_generator(wrapped(spoilt(change)), batch_size=50, device=CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_a_probe_without_memory_ends_in_one_line(write_module: Module, tmp_path: Path) -> None:
    write_module("hungry", OWN_GENERATOR.replace("assert labels.dtype == torch.int64", "raise torch.OutOfMemoryError"))
    result = CliRunner().invoke(main, ["render", "--n=4", "--out=d", "--generator=hungry:make"])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert "ran out of memory at batch size 50" in result.stderr
    assert not (tmp_path / "d").exists()


def test_a_failed_probe_writes_nothing(write_module: Module, tmp_path: Path) -> None:
    write_module("spoilt", OWN_GENERATOR.replace("- 0.5)", "+ 0.5)"))
    for extra in ([], ["--dry-run"]):
        result = CliRunner().invoke(main, ["render", "--n=4", "--out=d", "--generator=spoilt:make", *extra])
        assert result.exit_code == 2 and "as in [0, 1]" in result.stderr, result.output
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_stays_what_it_is(error: Exception) -> None:
    class Full(Good):
        def sample(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(type(error)):  # the renderer turns it into a line about --batch-size
        wrapped(Full()).sample(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))


def test_larger_images_come_in_smaller_batches() -> None:
    assert [usual_batch_size(size, CPU) for size in (32, 64, 128)] == [50, 50, 10]
    assert [usual_batch_size(size, torch.device("cuda")) for size in (32, 64, 128, 256, 1024)] == [500, 500, 125, 31, 8]
