"""Anyone's model as a generator: its attributes checked, its pixels made by us.

generator = OwnGenerator(model, name="my_faces:make", weights_sha256=digest, dtype="float32")
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.errors import describe_error, lacks_memory
from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.weight_files import default_class_names

_LARGEST_IMAGE_SIZE = 4096


class OwnGenerator:
    """A user's model behind our protocol; see `synthgen.adapters.protocol.Generator`.

    Args:
        model: has image_size, latent_dim and sample(latents, labels); num_classes and class_names where it has classes;
            num_layers, latent_weights and activations where its layers can be read.
        name: what the recipe calls it.
        weights_sha256: identity of the weights.
        dtype: number format that the model runs in.
        fixed_batch_size: the only batch that it can take; None where any will do.
    """

    def __init__(
        self, model: Any, *, name: str, weights_sha256: str, dtype: str, fixed_batch_size: int | None = None
    ) -> None:
        self.name = name
        self.image_size = _whole(model, name, "image_size", 1, _LARGEST_IMAGE_SIZE)
        self.latent_dim = _whole(model, name, "latent_dim", 1, 1_000_000)
        self.num_classes = _whole(model, name, "num_classes", 0, 1_000_000) if hasattr(model, "num_classes") else 0
        self.class_names = _class_names(model, name, self.num_classes)
        self.dtype = dtype
        self.fixed_batch_size = fixed_batch_size
        if not re.fullmatch(r"[0-9a-f]{64}", str(weights_sha256)):
            raise ValueError(
                f"{name}: weights_sha256 {str(weights_sha256)[:24]!r} is no sha256: give 64 hex digits, such as "
                "synthgen.adapters.weight_files.file_sha256(path)"
            )
        self.weights_sha256 = str(weights_sha256)
        self.config_sha256 = None
        if not callable(getattr(model, "sample", None)):
            raise ValueError(f"{name}: its object has no method sample: give it sample(latents, labels) -> images")
        self._model = model
        for part in ("num_layers", "latent_weights", "activations"):  # of a LayeredGenerator
            if hasattr(model, part):
                setattr(self, part, getattr(model, part))

    @property
    def bare_pass(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The model's own `sample`."""
        own: Callable[[Tensor, Tensor], Tensor] = self._model.sample
        return own

    @torch.inference_mode()
    def sample(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images [B, 3, H, W], float32 in [-1, 1], of latents [B, latent_dim] float32 and labels [B] int64.

        Raises:
            ValueError: the model failed, or gave something else.
        """
        return self._images(latents, labels)

    @torch.inference_mode()
    def render(self, latents: Tensor, labels: Tensor, *, size: int | None = None) -> Tensor:
        """Pixels [B, H, W, 3], uint8, on the generator's device; resized to `size` where it is given."""
        return to_pixels(self.sample(latents, labels), size=size)

    def differentiable(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images as `sample` gives them, through which gradients reach the latents.

        Raises:
            ValueError: as `sample`, or it takes batches of one size alone.
        """
        if self.fixed_batch_size is not None:
            raise ValueError(f"{self.name} takes batches of {self.fixed_batch_size} alone: export it for any batch")
        return self._images(latents, labels)

    def _images(self, latents: Tensor, labels: Tensor) -> Tensor:
        try:
            images = self._model.sample(latents, labels)
        except (Exception, SystemExit) as error:
            if lacks_memory(error):
                raise
            raise ValueError(
                f"{self.name}: sample of latents {list(latents.shape)} failed ({describe_error(error)}); "
                "SHARDS_TRACEBACK=1 shows where"
            ) from error
        shape = [len(latents), 3, self.image_size, self.image_size]
        if not isinstance(images, Tensor):
            raise ValueError(f"{self.name}: sample gave a {type(images).__name__}: give a tensor {shape} in [-1, 1]")
        if list(images.shape) != shape:
            raise ValueError(f"{self.name}: sample gave images {list(images.shape)}: give {shape}, in [-1, 1]")
        if not images.is_floating_point():
            raise ValueError(f"{self.name}: sample gave images of {images.dtype}: give floating point in [-1, 1]")
        if images.device != latents.device:
            raise ValueError(
                f"{self.name}: sample gave images on {images.device} for latents on {latents.device}: "
                "move the model to the device that it is given"
            )
        return images.float()


def usual_batch_size(image_size: int, device: torch.device) -> int:
    """Groups per block for a network that we know nothing of but its images: careful of memory, not of speed."""
    if device.type == "cuda":
        return max(8, min(500, 500 * 64**2 // image_size**2))
    return 50 if image_size <= 64 else 10


def _whole(model: Any, name: str, attribute: str, lowest: int, highest: int) -> int:
    if not hasattr(model, attribute):
        raise ValueError(f"{name}: its object has no {attribute}: give it one, a whole number")
    value = getattr(model, attribute)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not lowest <= value <= highest:
        raise ValueError(f"{name}: {attribute} {value!r}: give a whole number from {lowest} to {highest}")
    return int(value)


def _class_names(model: Any, name: str, num_classes: int) -> tuple[str, ...]:
    given = getattr(model, "class_names", None)
    if not given:
        return default_class_names(num_classes)
    if isinstance(given, str) or not all(isinstance(item, str) for item in given) or len(given) != num_classes:
        raise ValueError(f"{name}: class_names has to be {num_classes} texts, one per class")
    return tuple(given)
