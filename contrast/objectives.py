"""What counts as the same: an objective gives every image of a batch its id, and equal ids attract.

ids = OBJECTIVES["simclr"](group_indices, labels, num_images=2)   # [B * num_images]
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Objective = Callable[..., Tensor]


def ids_by_group(group_indices: Tensor, labels: Tensor, *, num_images: int) -> Tensor:
    """One id per group: the anchor and its views attract each other (SimCLR; with more than one view, multi-positive).

    Takes the [B] group indices and labels and returns [B * num_images] ids, the images of a group side by side.
    """
    return group_indices.repeat_interleave(num_images)


def ids_by_class(group_indices: Tensor, labels: Tensor, *, num_images: int) -> Tensor:
    """One id per class: all images of a class attract each other (SupCon). Shapes as in `ids_by_group`."""
    return labels.repeat_interleave(num_images)


OBJECTIVES: dict[str, Objective] = {"simclr": ids_by_group, "supcon": ids_by_class}
NEEDS_LABELS = frozenset({"supcon"})


def check_objective(name: str, *, has_labels: bool) -> None:
    """Raises ValueError when there is no such objective, or when it needs class labels and there are none."""
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: choose one of {', '.join(OBJECTIVES)}")
    if name in NEEDS_LABELS and not has_labels:
        raise ValueError(f"objective {name} needs class labels and these groups have none: use --objective simclr")
