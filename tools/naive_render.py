"""The loop that people write around the published generator, for benchmarks to compare with.

It is the example of pytorch-pretrained-biggan put into a loop: the package's own module, sampling and way to image
files; float32, one thread, a PNG per image.

    network = load_published_module("biggan-deep-128", Path("weights"))
    images_per_second = Naive(network, Path("/tmp"), images=320)()
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image  # noqa: F401  # the published package uses it without importing it
import torch
from pytorch_pretrained_biggan import BigGAN, save_as_images, truncated_noise_sample
from torch import nn

from synthgen.adapters.biggan import load_network
from synthgen.adapters.weight_files import require_weights

NAIVE_BATCH = 32


def load_published_module(name: str, weights: Path | None) -> BigGAN:
    """The module as the published package runs it, which computes every spectral norm again in every forward pass.

    Our files hold weights that were divided by their norms already. Here they get norms back that are one, so images
    and arithmetic are the published ones.
    """
    network = load_network(require_weights(name, weights))
    for module in list(network.generator.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.utils.spectral_norm(module, eps=network.config.eps)
            matrix = module.weight_orig.detach().flatten(1)
            product = matrix @ module.weight_v
            module.weight_u.copy_(product / product.square().sum())  # the norm is u · W v
    return network.requires_grad_(False).eval()


class Naive:
    """Images/s of the published package's example in a loop: its forward pass, its sampling, its way to PNG files."""

    def __init__(self, network: BigGAN, folder: Path, *, images: int) -> None:
        self._network, self._folder = network, folder
        self._device = network.embeddings.weight.device
        self._count = images // NAIVE_BATCH
        self.file_bytes = 0.0

    def __call__(self) -> float:
        logging.getLogger("pytorch_pretrained_biggan").setLevel(logging.WARNING)  # it would log every file
        with tempfile.TemporaryDirectory(dir=self._folder) as name, one_thread(), torch.no_grad():
            began = time.perf_counter()
            for batch in range(self._count):
                latents = truncated_noise_sample(
                    batch_size=NAIVE_BATCH, dim_z=self._network.config.z_dim, truncation=1.0, seed=batch
                )
                labels = torch.randint(self._network.config.num_classes, (NAIVE_BATCH,))
                one_hot = nn.functional.one_hot(labels, self._network.config.num_classes).float()
                images = self._network(torch.from_numpy(latents).to(self._device), one_hot.to(self._device), 1.0)
                save_as_images(images.cpu(), f"{name}/batch{batch:06d}")
            seconds = time.perf_counter() - began
            sizes = [path.stat().st_size for path in Path(name).iterdir()]
        assert len(sizes) == self._count * NAIVE_BATCH, "an image is missing"
        self.file_bytes = statistics.mean(sizes)
        return len(sizes) / seconds


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, and the former number again at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
