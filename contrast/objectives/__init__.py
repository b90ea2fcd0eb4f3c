"""What is learnt from a group: one registry of objectives, each of which says what images, what head and what loss.

    objective = build_objective(config, facts)
    head = objective.build_head(feature_dim=512)
    loss = objective.loss(head(features), targets)

An objective is a file or a few lines in one of these; the training loop never asks for its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrast.objectives.contrastive import MultiPositive, SimCLR, SupCon
from contrast.objectives.cross_entropy import CrossEntropy
from contrast.objectives.inverter import Inverter
from contrast.objectives.objective import GroupFacts, Objective, Targets
from contrast.objectives.vicreg import VICReg

if TYPE_CHECKING:
    from contrast.config import TrainConfig

__all__ = ["OBJECTIVES", "GroupFacts", "Objective", "Targets", "build_objective"]

OBJECTIVES: dict[str, type[Objective]] = {
    "simclr": SimCLR,
    "multi-positive": MultiPositive,
    "supcon": SupCon,
    "vicreg": VICReg,
    "cross-entropy": CrossEntropy,
    "inverter": Inverter,
}


def build_objective(config: TrainConfig, facts: GroupFacts) -> Objective:
    """The objective of a run on groups of this kind.

    Raises:
        ValueError: the groups lack what it needs: class labels, latents, a view, other groups in the batch.
    """
    objective = OBJECTIVES[config.objective](config, facts)
    if objective.needs_classes and not facts.classes:
        raise ValueError(
            f"objective {config.objective} needs class labels and these groups have none: use --objective simclr"
        )
    if objective.needs_classes and len(facts.classes) < 2:
        raise ValueError(
            f"objective {config.objective} needs two classes or more and these groups are all of one: "
            "use --objective simclr"
        )
    if objective.needs_latents and facts.latent_dim is None:
        raise ValueError(
            f"objective {config.objective} needs the latents and these groups do not carry them: "
            "render with --store-latents, or use another --objective"
        )
    if objective.needs_latents and config.mix_share > 0:
        raise ValueError(f"objective {config.objective}: real images have no latents; omit --mix")
    if config.positives == "shuffled" and (objective.needs_classes or not objective.is_of_pairs):
        raise ValueError(
            f"positives shuffled: objective {config.objective} does not learn from pairs of one group; use simclr, "
            "multi-positive or vicreg"
        )
    if config.positives in ("tz", "shuffled") and objective.is_of_pairs and facts.num_images < 2:
        raise ValueError(
            f"positives {config.positives}: these groups have no views; use --positives tx, or render some"
        )
    num_groups = config.batch_size // config.accumulate
    if objective.needs_other_groups and num_groups < 2:
        raise ValueError(
            f"batch size {config.batch_size}"
            + (f" in {config.accumulate} parts" if config.accumulate > 1 else "")
            + ": the loss needs other groups to compare with, use 2 or more"
        )
    return objective
