"""Renders groups of images from a pretrained generator: anchors, and views of them, in WebDataset shards.

    import synthgen

    manifest = synthgen.render(n="4k", out="datasets/demo", std=0.3)

Every command of `synthgen --help` is a function of that name, with the command's options as its keywords.
"""

from synthgen import steer, views
from synthgen.adapters import generators, load_generator
from synthgen.config import RenderConfig
from synthgen.estimate import Estimate
from synthgen.latent_directions import directions
from synthgen.progress import Status, status
from synthgen.rendering import render
from synthgen.verification import verify_render

__all__ = [
    "Estimate",
    "RenderConfig",
    "Status",
    "directions",
    "generators",
    "load_generator",
    "render",
    "status",
    "steer",
    "verify_render",
    "views",
]
