"""A very small biggan-deep-32 at random weights: meaningless images in no time, for programs that test everything else.

write_tiny_generator(Path("weights"))
synthgen.render(n="1k", out="datasets/noise", weights="weights")
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from safetensors.torch import save_file

from synthgen.adapters.folded_biggan import remove_spectral_norms

CONFIG = {
    "output_dim": 32,
    "z_dim": 16,
    "class_embed_dim": 16,
    "channel_width": 8,
    "num_classes": 10,
    "layers": [(True, 16, 8), (False, 8, 4), (True, 4, 2), (True, 2, 1)],
    "attention_layer_position": 2,
    "eps": 1e-4,
    "n_stats": 51,
}


def make_network(*, seed: int = 0, **changes: object) -> BigGAN:
    """The published module at random weights, warmed until its spectral norms hold, with statistics of their own.

    Every truncation's row differs from its neighbours, and the images are neither flat nor saturated.
    """
    torch.manual_seed(seed)
    network = BigGAN(BigGANConfig.from_dict({**CONFIG, **changes}))
    with torch.no_grad():
        for module in network.modules():  # a fresh one has statistics of zeros, and a last norm that is not set at all
            if hasattr(module, "running_means"):
                module.running_means.normal_(0, 0.2)
                module.running_vars.uniform_(0.5, 1.5)
            if hasattr(module, "gamma"):
                module.gamma.fill_(0.5)
        network.generator.bn.weight.fill_(2.0)
        network.generator.bn.bias.zero_()
        network.train()
        classes, z_dim = network.config.num_classes, network.config.z_dim
        for _ in range(15):  # each forward brings the spectral norms nearer
            network(torch.randn(2, z_dim), torch.eye(classes)[:2], 1.0)
    return network.eval().requires_grad_(False)


def write_tiny_generator(
    folder: Path, network: BigGAN | None = None, *, class_names: Sequence[str] | None = None
) -> Path:
    """Writes a network, a new one unless given, as the package lays out its own; returns the folder, which is made.

    That is biggan-deep-32.safetensors in half precision, spectral norms folded, and a JSON of its configuration.
    """
    network = network or make_network()
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "biggan-deep-32.safetensors"
    state = {name: tensor.half().contiguous() for name, tensor in remove_spectral_norms(network).state_dict().items()}
    save_file(state, weights)
    card = {
        "config": network.config.to_dict(),
        "class_names": list(class_names or (f"class {label}" for label in range(network.config.num_classes))),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "training": {},
    }
    (folder / "biggan-deep-32.json").write_text(json.dumps(card))
    return folder
