"""Pull together what belongs together, push the rest apart: three objectives that differ in their ids alone.

All three are `contrast.losses.multi_positive_loss`; equal ids attract. SimCLR: Chen et al. 2020. SupCon: Khosla et al.
2020. All views of a group as positives at once: the multi-positive loss of StableRep (Tian et al. 2023).
"""

from __future__ import annotations

import math
from abc import abstractmethod

from torch import Tensor, nn

from contrast.heads import ProjectionHead
from contrast.losses import multi_positive_loss
from contrast.objectives.objective import Objective, Targets


class _Contrastive(Objective):
    @abstractmethod
    def ids(self, targets: Targets) -> Tensor:
        """int64 [b]: what the images of each group have in common."""

    def build_head(self, feature_dim: int) -> nn.Module:
        return ProjectionHead(feature_dim, hidden_dim=self.config.head_hidden_dim, output_dim=self.config.head_dim)

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        ids = self.ids(targets).repeat_interleave(targets.num_images)
        return multi_positive_loss(outputs, ids, temperature=self.config.temperature)

    def chance_loss(self) -> float:
        return math.log(self.config.batch_size // self.config.accumulate * self.num_images - 1)


class MultiPositive(_Contrastive):
    """The anchor and all its views attract each other."""

    needs_other_groups = True

    def ids(self, targets: Targets) -> Tensor:
        return targets.groups


class SimCLR(MultiPositive):
    """The anchor and one view attract each other; of several views a step draws one."""

    takes_pairs = True


class SupCon(_Contrastive):
    """All images of a class attract each other."""

    needs_classes = True
    needs_other_groups = True

    def ids(self, targets: Targets) -> Tensor:
        return targets.classes
