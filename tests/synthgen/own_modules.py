"""A module with a generator of one's own, as text to be written and imported."""

from __future__ import annotations

OWN_GENERATOR = """
import torch

class Model:
    latent_dim, image_size, num_classes, class_names = 4, 8, 2, ["cat", "dog"]
    weights_sha256 = "ab" * 32

    def sample(self, latents, labels):
        assert labels.dtype == torch.int64
        return (latents.mean(1) / 2 + labels - 0.5)[:, None, None, None].expand(-1, 3, 8, 8)

def make(**given):
    model = Model()
    model.given = given
    return model

def half(dtype="nothing"):
    return make(dtype=dtype)
"""
"""The source of a module with a generator that wants all that is offered."""
