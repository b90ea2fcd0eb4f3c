"""Anyone's model as a generator: its attributes checked, its pixels made by us, its promises tried before they count.

generator = OwnGenerator(model, name="my_faces:make", weights_sha256=digest, dtype="float32")
probe_generator(generator, batch_size=50, device=torch.device("cpu"))
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.protocol import Generator
from synthgen.adapters.weight_files import default_class_names
from synthgen.devices import lacks_memory, reproducible_arithmetic
from synthgen.draws import draw_truncated_normal

_LARGEST_IMAGE_SIZE = 4096
_PROBE_SIZE = 8
_WIDEST_VALUE = 8.0  # networks without a last tanh overshoot [-1, 1], but not as far as 0 … 255 lies
_NEIGHBOUR_TOLERANCE = 0.03  # bfloat16 sums in another order move pixels by less than a third of this


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
        except Exception as error:
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


def probe_generator(generator: Generator, *, batch_size: int, device: torch.device, truncation: float = 1.0) -> None:
    """Three small passes that an honest generator survives: finite, in range, repeatable, and one image per latent.

    Raises:
        ValueError: it does not; the message says what it did and the usual reason.
    """
    count = generator.fixed_batch_size or min(batch_size, _PROBE_SIZE)
    drawn = truncation * draw_truncated_normal(
        seed=0, stream="probe", first=0, count=count, dim=generator.latent_dim, bound=2.0
    )
    latents = torch.from_numpy(drawn.astype(np.float32)).to(device)
    labels = (torch.arange(count) % max(generator.num_classes, 1)).to(device)
    half = count // 2
    others = torch.cat([latents[:half], -latents[half:]])
    with reproducible_arithmetic(device):
        images = generator.sample(latents, labels).clone()
        again = generator.sample(latents, labels).clone()
        beside_others = generator.sample(others, labels)
    name = generator.name
    if not images.isfinite().all():
        raise ValueError(f"{name}: its images hold NaN or infinity: check its weights, or give --dtype float32")
    low, high = float(images.min()), float(images.max())
    if max(-low, high) > _WIDEST_VALUE:
        raise ValueError(f"{name}: its values go from {low:.3g} to {high:.3g}: give images in [-1, 1]")
    if 0 <= low < high:
        raise ValueError(
            f"{name}: its values go from {low:.3g} to {high:.3g}, as in [0, 1]: give images in [-1, 1], 2 * x - 1"
        )
    if not torch.equal(images, again):
        raise ValueError(
            f"{name}: the same latents gave other images the second time: put the model into eval mode, and its noise "
            "under a fixed seed or off"
        )
    if half and float((images[:half] - beside_others[:half]).abs().mean()) > _NEIGHBOUR_TOLERANCE:
        raise ValueError(
            f"{name}: a latent's image changes with the others of its batch: put the model into eval mode, so that its "
            "norms use stored statistics"
        )


def usual_batch_size(image_size: int, device: torch.device) -> int:
    """Groups per block for a network that we know nothing of but its images: careful of memory, not of speed."""
    if device.type == "cuda":
        return max(8, min(500, 500 * 64**2 // image_size**2))
    return 50 if image_size <= 64 else 10


def describe_error(error: BaseException) -> str:
    """Kind and text of an exception, in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


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
