"""Renders groups of images from a pretrained generator: anchors, and views of them, in WebDataset shards.

import synthgen
manifest = synthgen.render(n="4k", out="datasets/demo", std=0.3)
"""

from synthgen.estimate import Estimate, dry_run
from synthgen.generators import list_generators, load_generator
from synthgen.job import RenderConfig, render, render_dataset

__all__ = ["Estimate", "RenderConfig", "dry_run", "list_generators", "load_generator", "render", "render_dataset"]
