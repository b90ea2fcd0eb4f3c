"""The four BigGAN-deep generators behind one adapter: weights from disk into a folded network at one truncation.

generator = load_biggan("biggan-deep-32", files, truncation=1.0, device=torch.device("cpu"), dtype=torch.float32)
pixels = generator.render(latents, labels)  # [B, 32, 32, 3] uint8
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping

import torch
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from synthgen.adapters.folded_biggan import FoldedBigGAN, remove_spectral_norms
from synthgen.adapters.pixels import to_pixels
from synthgen.adapters.weight_files import WeightFiles, default_class_names, identify_config


class BigGANGenerator:
    """A BigGAN-deep at one truncation; see `synthgen.adapters.protocol.Generator`."""

    def __init__(
        self, name: str, network: FoldedBigGAN, files: WeightFiles, *, weights_sha256: str, dtype: str
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.fixed_batch_size = None
        self.weights_sha256 = weights_sha256
        self.image_size = int(files.config["output_dim"])
        self.latent_dim = int(files.config["z_dim"])
        self.num_classes = int(files.config["num_classes"])
        self.class_names = files.class_names or default_class_names(self.num_classes)
        self.config_sha256 = identify_config(name, files.config, self.class_names)
        self.network = network

    @property
    def bare_pass(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The network."""
        return self.network

    @torch.inference_mode()
    def sample(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images [B, 3, H, W], float32 in [-1, 1], of latents [B, latent_dim] float32 and labels [B] int64."""
        return self.network(latents, labels)

    @torch.inference_mode()
    def render(self, latents: Tensor, labels: Tensor, *, size: int | None = None) -> Tensor:
        """Pixels [B, H, W, 3], uint8, on the generator's device; resized to `size` where it is given."""
        return to_pixels(self.sample(latents, labels), size=size)

    def differentiable(self, latents: Tensor, labels: Tensor) -> Tensor:
        """Images as `sample` gives them, through which gradients reach the latents; the weights get none."""
        return self.network(latents, labels)

    @property
    def num_layers(self) -> int:
        """Depths at which `activations` can look: 0, the first linear layer, to num_layers - 1."""
        return len(self.network.layers)

    def latent_weights(self) -> Tensor:
        """The weights [outputs, latent_dim], float32, with which the first linear layer reads the latent."""
        return self.network.start[0][:, : self.latent_dim]

    @torch.inference_mode()
    def activations(self, latents: Tensor, labels: Tensor, *, layer: int) -> Tensor:
        """What leaves the first linear layer (0) or the layer-th block, [B, features], float32."""
        return self.network(latents, labels, depth=layer).float().flatten(1)


def load_biggan(
    name: str, files: WeightFiles, *, truncation: float, device: torch.device, dtype: torch.dtype
) -> BigGANGenerator:
    """The generator of these files, every part of it loaded or none.

    Raises:
        ValueError: the weights are corrupt, or belong to another network than the configuration.
    """
    digest = files.sha256()  # says plainly that a file is corrupt, before the parser says it in its own words
    network = FoldedBigGAN(load_network(files), truncation=truncation).place(device, dtype)
    if files.sha256() != digest:
        raise ValueError(f"{files.path} changed while it was loaded: run the same command again when it is complete")
    return BigGANGenerator(name, network, files, weights_sha256=digest, dtype=str(dtype).removeprefix("torch."))


def load_network(files: WeightFiles) -> BigGAN:
    """The published module in float32, in eval mode, with spectral norms folded into its weights."""
    network = BigGAN(BigGANConfig.from_dict(dict(files.config))).requires_grad_(False).eval()
    state = _read_state(files)
    folded = not any(key.endswith("weight_orig") for key in state)
    if folded:
        remove_spectral_norms(network)
    try:
        absent = network.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:  # shapes differ
        raise ValueError(
            f"{files.path} holds the weights of another network than its configuration: give --weights the folder "
            "where both belong together"
        ) from error
    # Torch goes on asking for what a spectral norm had after the norm was removed.
    missing = [key for key in network.state_dict() if key in absent]
    if missing:
        raise ValueError(
            f"{files.path} lacks {len(missing)} of the network's tensors ({missing[0]}, …): "
            "give --weights the whole file, or the configuration that belongs to it"
        )
    return remove_spectral_norms(network)


def _read_state(files: WeightFiles) -> Mapping[str, Tensor]:
    fix = "fetch it again, or give --weights another folder or file"
    try:
        if files.path.suffix == ".safetensors":
            state = load_file(files.path)
        else:
            state = torch.load(files.path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{files.path} cannot be read as weights ({type(error).__name__}): {fix}") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{files.path} holds no table of tensors: {fix}")
    return state
