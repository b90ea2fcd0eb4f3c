"""What the process allows for other work does not reach the pixels, and is as before afterwards."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest
import torch

import synthgen
from synthgen.arithmetic import reproducible_arithmetic
from synthgen.pipeline import ShardRenderer

CPU = torch.device("cpu")
NEW_WAYS = ("cuda.matmul", "cudnn.conv", "mkldnn.conv")


@pytest.mark.parametrize("name", NEW_WAYS)
def test_the_newer_way_to_allow_tf32_is_put_aside_too(name: str) -> None:
    """Where it was used, torch refuses to read the older setting: float32 products are in full all the same."""
    operators = attrgetter(name)(torch.backends)
    if not hasattr(operators, "fp32_precision"):
        pytest.skip("this torch has the older way alone")
    before = operators.fp32_precision
    operators.fp32_precision = "bf16" if name.startswith("mkldnn") else "tf32"
    allowed = operators.fp32_precision
    try:
        for _ in range(2):
            with reproducible_arithmetic(CPU):
                assert {attrgetter(way)(torch.backends).fp32_precision for way in NEW_WAYS} == {"ieee"}
                assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
            assert operators.fp32_precision == allowed
    finally:
        operators.fp32_precision = before
    assert torch.get_float32_matmul_precision() == "highest"


def test_pixels_do_not_depend_on_what_the_process_allows_elsewhere(
    tiny_weights: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 or bfloat16 in place of float32 products, allowed for other work, is put aside and put back."""
    seen, generate, before = set(), ShardRenderer._generate, torch.get_float32_matmul_precision()

    def look_and_generate(self: ShardRenderer, *arguments: object) -> object:
        seen.add((torch.get_float32_matmul_precision(), torch.get_num_threads()))
        return generate(self, *arguments)

    monkeypatch.setattr(ShardRenderer, "_generate", look_and_generate)
    torch.set_float32_matmul_precision("medium")
    try:
        with reproducible_arithmetic(CPU):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(ZeroDivisionError), reproducible_arithmetic(CPU):
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == "medium"
        report = synthgen.verify_render(whole, groups=20, weights=tiny_weights, device="cpu")
        assert report.sameness.identical
        synthgen.render(n=20, out=tmp_path / "d", weights=tiny_weights, devices="cpu", quiet=True)
        assert seen == {("highest", 1)} and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch._C, "_cuda_tunableop_enable"), reason="this torch knows no GPUs")
def test_what_chooses_the_kernels_of_a_gpu_is_put_aside() -> None:
    """Settings alone: they can be looked at without a GPU."""
    cudnn, matmul, tunable = torch.backends.cudnn, torch.backends.cuda.matmul, torch.cuda.tunable
    before = cudnn.benchmark, matmul.allow_bf16_reduced_precision_reduction, tunable.is_enabled()
    cudnn.benchmark, matmul.allow_bf16_reduced_precision_reduction = True, False
    tunable.enable(True)
    try:
        with reproducible_arithmetic(torch.device("cuda")):
            assert cudnn.deterministic and not cudnn.benchmark and not tunable.is_enabled()
            assert matmul.allow_bf16_reduced_precision_reduction
        assert cudnn.benchmark and not matmul.allow_bf16_reduced_precision_reduction and tunable.is_enabled()
    finally:
        cudnn.benchmark, matmul.allow_bf16_reduced_precision_reduction = before[:2]
        tunable.enable(before[2])
