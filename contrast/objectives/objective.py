"""What an objective is: the interface between the training loop and what is learnt.

    class Mine(Objective):
        def build_head(self, feature_dim: int) -> nn.Module: ...
        def loss(self, outputs: Tensor, targets: Targets) -> Tensor: ...
        def chance_loss(self) -> float: ...

The loop asks for `num_images` images of every group, sends them through encoder and head in one forward, and hands the
outputs back with the targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from contrast.batches import GroupBatch
from contrast.devices import to_device
from shards.canonical import JSON
from shards.errors import DamageError

if TYPE_CHECKING:
    from contrast.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class GroupFacts:
    """What the groups of a dataset have to offer."""

    num_images: int
    """Anchor and views."""
    classes: tuple[int, ...] = ()
    """Class ids, ascending; empty where there are none."""
    latent_dim: int | None = None
    """Numbers of one image's latent; None where the dataset does not carry them."""
    latent_variance: float = 0.0
    """Mean over the components of their variance, estimated on the first groups."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is known of the images that an objective is given, on their device; the images of a group side by side."""

    groups: Tensor
    """int64 [b]: equal for the same group alone."""
    classes: Tensor
    """int64 [b]: position of the class among GroupFacts.classes; meaningless where there are none."""
    num_images: int
    """Images of every group."""
    latents: Tensor | None = None
    """float32 [b, num_images, dim], where the objective needs them."""


class Objective(ABC):
    """What is learnt from the images of a group.

    Attributes:
        num_images: images of every group that it is given.
    """

    needs_classes: ClassVar[bool] = False
    needs_latents: ClassVar[bool] = False
    needs_other_groups: ClassVar[bool] = False
    """Whether a batch of one group teaches nothing."""
    is_of_pairs: ClassVar[bool] = True
    """Whether images are compared with each other, so that wrong pairs are a control."""
    takes_pairs: ClassVar[bool] = False
    """Whether it is given the anchor and one view, however many views there are."""
    defaults: ClassVar[Mapping[str, JSON]] = {}
    """Fields of TrainConfig that go with it where none are given."""

    def __init__(self, config: TrainConfig, facts: GroupFacts) -> None:
        self.config, self.facts = config, facts
        self.num_images = 2 if self.takes_pairs else max(facts.num_images, 2 if self.is_of_pairs else 1)

    def targets(self, batch: GroupBatch, device: torch.device) -> Targets:
        """What the batch's groups are, on the device.

        Raises:
            DamageError: a label that is none of the dataset's classes, where the objective needs them.
        """
        known = np.array(self.facts.classes, dtype=np.int64)
        unknown = np.flatnonzero(~np.isin(batch.labels, known))
        if self.needs_classes and len(unknown):
            row = unknown[0]
            raise DamageError(
                f"group {batch.indices[row]} has label {batch.labels[row]}, which is none of its dataset's classes: "
                "shards verify says what to do"
            )
        return Targets(
            groups=to_device(batch.indices, device),
            classes=to_device(np.searchsorted(known, batch.labels), device),
            num_images=self.num_images,
            latents=None if batch.latents is None else to_device(batch.latents, device),
        )

    @abstractmethod
    def build_head(self, feature_dim: int) -> nn.Module:
        """What training puts on top of the encoder: [B, feature_dim] to what `loss` takes."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """A float32 scalar; its mean over processes is the loss of the whole batch. Never waits for the device."""

    @abstractmethod
    def chance_loss(self) -> float:
        """The loss of an encoder that knows nothing: it gives the same for every image."""
