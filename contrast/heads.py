"""The projection head: what the loss sees, and what evaluation throws away."""

from __future__ import annotations

from torch import nn


class ProjectionHead(nn.Sequential):
    """Two layers on top of the features (SimCLR, section 4.2)."""

    def __init__(self, feature_dim: int, *, hidden_dim: int, output_dim: int) -> None:
        super().__init__(
            nn.Linear(feature_dim, hidden_dim), nn.ReLU(inplace=True), nn.Linear(hidden_dim, output_dim, bias=False)
        )
