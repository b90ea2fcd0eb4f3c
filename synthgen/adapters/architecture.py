"""The sizes of BigGAN-deep networks, counted from their configuration alone: no torch, no weights.

Configurations are dictionaries with the fields of pytorch_pretrained_biggan.BigGANConfig.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Layers = list[tuple[bool, int, int]]  # up-sample?, input width, output width; widths in units of channel_width

_LAYERS_128: Layers = [
    (False, 16, 16),
    (True, 16, 16),
    (False, 16, 16),
    (True, 16, 8),
    (False, 8, 8),
    (True, 8, 4),
    (False, 4, 4),
    (True, 4, 2),
    (False, 2, 2),
    (True, 2, 1),
]
_LAYERS_256: Layers = [*_LAYERS_128[:5], (True, 8, 8), (False, 8, 8), *_LAYERS_128[5:]]
_LAYERS_512: Layers = [*_LAYERS_256, (False, 1, 1), (True, 1, 1)]


def _published(image_size: int, layers: Layers) -> dict[str, Any]:
    return {
        "output_dim": image_size,
        "z_dim": 128,
        "class_embed_dim": 128,
        "channel_width": 128,
        "num_classes": 1000,
        "layers": layers,
        "attention_layer_position": 8,
        "eps": 1e-4,
        "n_stats": 51,
    }


PUBLISHED_CONFIGS: Mapping[str, dict[str, Any]] = {
    "biggan-deep-128": _published(128, _LAYERS_128),
    "biggan-deep-256": _published(256, _LAYERS_256),
    "biggan-deep-512": _published(512, _LAYERS_512),
}


CONFIG_FIELDS = tuple(_published(0, []))
"""All that a configuration says of the network."""


def check_config(config: Mapping[str, Any]) -> None:
    """Raises ValueError unless this describes a network that the published package can build and run."""
    missing = [field for field in CONFIG_FIELDS if field not in config]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    size, layers = config["output_dim"], config["layers"]
    width, resolution = 16, 4
    for position, (up_sample, width_in, width_out) in enumerate(layers):
        if width_in != width or width_out not in (width_in, width_in // 2):
            raise ValueError(f"layer {position} goes from width {width_in} to {width_out} after a width of {width}")
        width, resolution = width_out, resolution * (2 if up_sample else 1)
    if (width, resolution) != (1, size):
        raise ValueError(f"its layers end at width {width} and {resolution} px, not at width 1 and {size} px")


def _convolutions(config: Mapping[str, Any]) -> Iterator[tuple[int, int, int, int, bool]]:
    """(inputs, outputs, kernel, resolution, has a bias) of every convolution."""
    channel_width, resolution = config["channel_width"], 4
    for position, (up_sample, width_in, width_out) in enumerate(config["layers"]):
        inputs, outputs = channel_width * width_in, channel_width * width_out
        if position == config["attention_layer_position"]:
            yield inputs, inputs // 8, 1, resolution, False
            yield inputs, inputs // 8, 1, resolution, False
            yield inputs, inputs // 2, 1, resolution, False
            yield inputs // 2, inputs, 1, resolution, False
        middle = inputs // 4
        yield inputs, middle, 1, resolution, True
        resolution *= 2 if up_sample else 1
        yield middle, middle, 3, resolution, True
        yield middle, middle, 3, resolution, True
        yield middle, outputs, 1, resolution, True
    yield channel_width, 3, 3, resolution, True


def _num_norm_features(config: Mapping[str, Any]) -> int:
    widths = [config["channel_width"] * width_in for _, width_in, _ in config["layers"]]
    return sum(width + 3 * (width // 4) for width in widths)


def count_parameters(config: Mapping[str, Any]) -> int:
    """Trained numbers of the published network; statistics of the norms are not among them."""
    channel_width, condition = config["channel_width"], 2 * config["z_dim"]
    total = config["num_classes"] * config["z_dim"] + (condition + 1) * 4 * 4 * 16 * channel_width
    for inputs, outputs, kernel, _, bias in _convolutions(config):
        total += inputs * outputs * kernel**2 + (outputs if bias else 0)
    # The published last convolution has as many outputs as inputs, of which three are used.
    total += (channel_width - 3) * (9 * channel_width + 1)
    total += 2 * condition * _num_norm_features(config) + 2 * channel_width
    has_attention = config["attention_layer_position"] < len(config["layers"])
    return total + (1 if has_attention else 0)  # the attention's gamma


def count_flops(config: Mapping[str, Any]) -> int:
    """Floating-point operations of matrix products and convolutions per image, as we run it; 2 per multiply-add."""
    condition = 2 * config["z_dim"]
    total = condition * (4 * 4 * 16 * config["channel_width"] + 2 * _num_norm_features(config))
    for inputs, outputs, kernel, resolution, _ in _convolutions(config):
        total += inputs * outputs * kernel**2 * resolution**2
    resolution = 4
    for position, (up_sample, width_in, _) in enumerate(config["layers"]):
        if position == config["attention_layer_position"]:
            channels = config["channel_width"] * width_in
            total += resolution**2 * (resolution // 2) ** 2 * (channels // 8 + channels // 2)
        resolution *= 2 if up_sample else 1
    return 2 * total
