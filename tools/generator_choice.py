"""The options of the benchmarks that say which generator, and weights for those that have none: random ones.

@main.command()
@generator_options
def measure(generator: str, weights: Path | None, random_weights: bool, device: str) -> None:
    weights = chosen_weights(generator, weights, random_weights, folder)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import click
import torch
from builtin_networks import generator_config
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from safetensors.torch import save_file
from torch import nn

from synthgen.adapters import generator_info
from synthgen.adapters.architecture import PUBLISHED_CONFIGS
from synthgen.adapters.folded_biggan import remove_spectral_norms
from synthgen.adapters.weight_files import find_weights


def generator_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command with the options that `chosen_weights` needs, and --device."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1."),
        click.option("--random-weights", is_flag=True, help="Needs no weights: the arithmetic, on meaningless images."),
        click.option("--weights", type=click.Path(path_type=Path), help="As in synthgen render."),
        click.option("--generator", default="biggan-deep-32", show_default=True, help="One of `synthgen generators`."),
    ):
        command = option(command)
    return command


def chosen_weights(generator: str, weights: Path | None, random_weights: bool, folder: Path) -> Path | None:
    """Where the weights lie that the options ask for; None for the usual ones. Random ones are written into `folder`.

    Raises:
        ValueError: no such generator.
    """
    if weights is not None and random_weights:
        raise click.UsageError("--weights and --random-weights exclude each other: give one of them")
    generator_info(generator)
    return write_random_weights(generator, folder) if random_weights else weights


def write_random_weights(name: str, folder: Path) -> Path:
    """A weights file and its configuration, as the package lays them out, of a network with the published arithmetic.

    A fresh network gives NaN: its spectral norms start far off, and the last norm's weights are not set at all.
    """
    found = find_weights(name) if name not in PUBLISHED_CONFIGS else None
    config = found.config if found else PUBLISHED_CONFIGS.get(name) or generator_config("small")
    torch.manual_seed(0)
    network = BigGAN(BigGANConfig.from_dict(dict(config))).requires_grad_(False).train()
    nn.init.ones_(network.generator.bn.weight)
    nn.init.zeros_(network.generator.bn.bias)
    for _ in range(10):  # each pass in training mode brings the norms one step closer
        images = network(torch.randn(1, network.config.z_dim), torch.eye(network.config.num_classes)[:1], 1.0)
    assert images.isfinite().all(), "the warmed network still overflows"
    state = {key: tensor.half().contiguous() for key, tensor in remove_spectral_norms(network).state_dict().items()}
    weights = folder / f"{name}.safetensors"
    save_file(state, weights)
    card = {"config": dict(config), "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    (folder / f"{name}.json").write_text(json.dumps(card))
    return folder
