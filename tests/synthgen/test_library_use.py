"""From Python, in a process that has work of its own: its settings do not reach the pixels, and stay as they are."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import synthgen
from synthgen.config import RenderConfig, RenderOptions


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
        assert torch.get_default_device() == torch.device(name)
    finally:
        torch.set_default_device(None)


def render(out: Path, weights: Path, **options: Any) -> str:
    given: dict[str, Any] = {"n": 20, "shard_size": 20, "devices": "cpu", "dtype": "float32", "quiet": True, **options}
    synthgen.render(out=out, weights=weights, **given)
    return hashlib.sha256((out / "data/train-000000.tar").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "defaults",
    [*(default_dtype(kind) for kind in (torch.bfloat16, torch.float64)), default_device("meta"), torch.device("meta")],
)
def test_defaults_of_the_process_do_not_reach_the_pixels(
    tmp_path: Path, tiny_weights: Path, defaults: typing.ContextManager[None]
) -> None:
    usual = render(tmp_path / "usual", tiny_weights)
    with defaults:
        assert render(tmp_path / "other", tiny_weights) == usual
        report = synthgen.verify_render(tmp_path / "usual", groups=5, weights=tiny_weights, device="cpu", quiet=True)
    assert report.sameness.identical and torch.empty(0).device.type == "cpu"


@pytest.mark.parametrize(
    "work",
    [
        lambda out, weights: render(out / "new", weights),
        lambda out, weights: synthgen.render(n=9, out=out / "dry", weights=weights, dry_run=True, devices="cpu"),
        lambda out, weights: synthgen.load_generator(weights=weights, device="cpu"),
        lambda out, weights: synthgen.views.show(out=out / "a.png", weights=weights, device="cpu", samples=1),
    ],
    ids=["render", "dry run", "load", "show"],
)
def test_what_the_user_draws_afterwards_is_as_if_nothing_had_been_rendered(
    tmp_path: Path, tiny_weights: Path, work: Callable[[Path, Path], object]
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    work(tmp_path, tiny_weights)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_numbers_and_paths_of_every_kind_are_taken(tmp_path: Path, tiny_weights: Path) -> None:
    plain = RenderConfig(n=4000, out=tmp_path, seed=3, num_views=2, std=0.3, batch_size=64)
    numpy = RenderConfig(
        n="4k", out=str(tmp_path), seed=np.int64(3), num_views=np.int32(2), std=np.float32(0.3), batch_size="64"
    )  # type: ignore[arg-type]
    assert plain == numpy and type(numpy.seed) is int
    assert numpy.view_policy().recipe() == plain.view_policy().recipe()
    device = RenderConfig(n=1, out=tmp_path, devices=torch.device("cpu"), classes=Path("list.txt"))  # type: ignore[arg-type]
    assert (device.devices, device.classes) == ("cpu", "list.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 2.5}, "n 2.5: give a whole number"),
        ({"n": "many"}, "n: 'many' is not a count"),
        ({"n": True}, "n True: give a whole number"),
        ({"seed": "3"}, "seed 3: give a whole number"),
        ({"std": "0.3"}, "std 0.3: give a number"),
        ({"std": 10**400}, "std 1000.*: give a number"),
        ({"truncation": np.float32(0)}, "truncation 0.0: give a number above 0"),
        ({"store_latents": "no"}, "store-latents 'no': give True or False"),
        ({"n": None}, "no n: give --n, how many groups"),
    ],
)
def test_values_of_the_wrong_kind_are_one_line(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthgen.render(**{"n": 5, "out": tmp_path / "d", **options})
    assert not (tmp_path / "d").exists()


def test_every_option_is_a_typed_keyword() -> None:
    fields = [field.name for field in dataclasses.fields(RenderConfig)]
    assert ["n", "out", *RenderOptions.__annotations__] == [f for f in fields if f not in ("task_index", "task_count")]
