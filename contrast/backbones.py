"""Encoders of other libraries, by name: torchvision:resnet34, timm:vit_tiny_patch16_224.

    backbone = build_backbone("timm:vit_tiny_patch16_224", image_size=32)
    backbone(images)                      # [B, 3, 32, 32] -> [B, 192]

Freshly initialised, without their classifiers, and fit for the image size: transformers get as many positions as the
image has patches, and residual networks with a large first convolution get the stem for small images.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Up to this size a ResNet starts with a 3x3 convolution of stride 1 and no max-pool (SimCLR, appendix B.9).
SMALL_IMAGE_SIZE = 64
NUM_MATCHES = 3


def split_name(name: str) -> tuple[str, str] | None:
    """Library and model of "timm:vit_tiny_patch16_224"; None for a name without a library."""
    library, colon, model = name.partition(":")
    return (library, model) if colon else None


def check_backbone_name(name: str) -> None:
    """Raises ValueError, with the nearest names, when the library or its model is not there."""
    library, model = split_name(name) or ("", "")
    if library not in _LIBRARIES:
        raise ValueError(f"unknown library {library!r} of encoder {name}: use one of {', '.join(_LIBRARIES)}")
    known = _LIBRARIES[library][0]()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=NUM_MATCHES, cutoff=0.4) or sorted(known)[:NUM_MATCHES]
        raise ValueError(
            f"unknown encoder {name!r}: {library} has none of that name; near: "
            + ", ".join(f"{library}:{match}" for match in near)
        )


def build_backbone(name: str, *, image_size: int) -> tuple[nn.Module, int]:
    """The model without its classifier, and the width of its features; weights come from torch's global generator.

    Raises:
        ValueError: there is no such model, or it does not take images of this size.
    """
    check_backbone_name(name)
    library, model = split_name(name) or ("", "")
    state = torch.random.get_rng_state()
    try:
        backbone = _LIBRARIES[library][1](model, image_size)
        features = _try_out(backbone, image_size)
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError, ZeroDivisionError) as error:
        torch.random.set_rng_state(state)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"encoder {name} does not take images of {image_size} px ({reason}): choose another --encoder"
        ) from error
    return backbone, features.shape[1]


def replace_small_stem(network: nn.Module) -> None:
    """Makes the first convolution of a ResNet 3x3 with stride 1 and drops its max-pool."""
    assert isinstance(network.conv1, nn.Conv2d)
    network.conv1 = nn.Conv2d(3, network.conv1.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()


def has_large_stem(network: nn.Module) -> bool:
    """Whether it begins like a ResNet for large images: a 7x7 convolution of stride 2, then a max-pool."""
    convolution = getattr(network, "conv1", None)
    is_large = isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (7, 7)
    return is_large and isinstance(getattr(network, "maxpool", None), nn.Module)


def classifier_name(network: nn.Module) -> str:
    """Dotted name of a torchvision model's last linear layer, such as fc or classifier.1."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError("nor of another size: it has no linear classifier to leave away")
    return names[-1]


def _try_out(backbone: nn.Module, image_size: int) -> Tensor:
    was_training = backbone.training
    with torch.inference_mode():
        features = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    backbone.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError("its output is not one row of features per image")
    return features


def torchvision_settings(model: str, image_size: int) -> dict[str, Any]:
    """What torchvision is told beside the name."""
    if model in ("googlenet", "inception_v3"):
        # Auxiliary classifiers would make the output a tuple while training. The initialisation is their own.
        return {"aux_logits": False, "init_weights": True}
    return {"image_size": image_size} if model.startswith("vit_") else {}


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _torchvision(model: str, image_size: int) -> nn.Module:
    import torchvision

    network = torchvision.models.get_model(model, weights=None, **torchvision_settings(model, image_size))
    network.set_submodule(classifier_name(network), nn.Identity())
    if image_size <= SMALL_IMAGE_SIZE and has_large_stem(network):
        replace_small_stem(network)
    return network


def timm_names() -> list[str]:
    """Names of timm's models.

    Raises:
        ValueError: timm is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ValueError("timm is not installed: pip install -e '.[timm]' in the clone") from None
    return timm.list_models()


def _timm(model: str, image_size: int) -> nn.Module:
    import timm

    settings = timm_settings(model, image_size)
    network = timm.create_model(model, pretrained=False, **settings)
    if image_size <= SMALL_IMAGE_SIZE and has_large_stem(network):
        replace_small_stem(network)
    return network


def timm_settings(model: str, image_size: int) -> dict[str, Any]:
    """Arguments of timm.create_model: no classifier, and the image size where the model is made for one size."""
    import timm

    card = timm.get_pretrained_cfg(model)
    is_fixed = card is not None and card.fixed_input_size
    return {"num_classes": 0, **({"img_size": image_size} if is_fixed else {})}


_LIBRARIES: dict[str, tuple[Callable[[], list[str]], Callable[[str, int], nn.Module]]] = {
    "torchvision": (_torchvision_names, _torchvision),
    "timm": (timm_names, _timm),
}
"""Library to what lists its models, and to what builds one for an image size."""
