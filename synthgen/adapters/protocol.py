"""What a generator has to offer to be rendered from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor


class Generator(Protocol):
    """A pretrained image generator at one truncation, on one device, in inference mode.

    Equal inputs in a batch of equal size give equal bytes, whatever was rendered before. On a CPU, sample and render
    are called from several threads at once.
    """

    @property
    def name(self) -> str:
        """Name in the recipe: of the table of generators, module:function, or a file's."""

    @property
    def weights_sha256(self) -> str:
        """sha256 (hex) of the weights file: part of the recipe."""

    @property
    def config_sha256(self) -> str | None:
        """sha256 (hex) of what else makes the images and is not in the weights file; None for what the name stands for.

        Part of the recipe where it is not None.
        """

    @property
    def image_size(self) -> int:
        """Height and width of its images in pixels."""

    @property
    def latent_dim(self) -> int:
        """Length of a latent."""

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for an unconditional generator."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""

    @property
    def dtype(self) -> str:
        """Number format that it runs in, as the render settings record it: float32 or bfloat16."""

    @property
    def fixed_batch_size(self) -> int | None:
        """The only batch that it can take; None where any will do."""

    def sample(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images [B, 3, H, W], float32 in [-1, 1], of latents [B, latent_dim] float32 and labels [B] int64.

        Without classes, labels are zeros.
        """

    def render(self, latents: Tensor, labels: Tensor, *, size: int | None = None) -> Tensor:
        """Pixels [B, H, W, 3], uint8, on the generator's device; resized to `size` where it is given."""


@runtime_checkable
class DifferentiableGenerator(Generator, Protocol):
    """Optional: a generator through which gradients pass. Only `synthgen steer train` asks for it."""

    def differentiable(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images as `sample` gives them, outside of inference mode, with gradients to the latents alone."""


@runtime_checkable
class CompilableGenerator(Generator, Protocol):
    """Optional: a generator whose passes torch.compile can fuse. Only `synthgen render --compile` asks for it."""

    @property
    def bare_pass(self) -> Callable[[Tensor, Tensor], Tensor]:
        """What makes the images of `sample`, floating point, in torch's operators alone: it becomes one graph."""


@runtime_checkable
class LayeredGenerator(Generator, Protocol):
    """Optional: a generator whose first layers can be read. Only `synthgen directions` asks for it."""

    @property
    def num_layers(self) -> int:
        """Depths at which `activations` can look: 0, the first linear layer, to num_layers - 1."""

    def latent_weights(self) -> Tensor:
        """The weights [outputs, latent_dim], float32, with which the first linear layer reads the latent."""

    def activations(self, latents: Tensor, labels: Tensor, *, layer: int) -> Tensor:
        """What leaves the first linear layer (0) or the layer-th one after it, [B, features], float32."""
