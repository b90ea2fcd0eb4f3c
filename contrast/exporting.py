"""A trained encoder for other people's programs: weights in a file, and a card beside it that says how to load them.

    export_run(Path("runs/tour"), format="torchvision", out=Path("encoder.pth"))     # and encoder.pth.json

Our encoders scale their input themselves; models of torchvision and timm leave it to the caller. So the card of those
carries mean and standard deviation, and zero and one where the scaling is inside the file.
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from contrast.backbones import (
    SMALL_IMAGE_SIZE,
    classifier_name,
    has_large_stem,
    split_name,
    timm_names,
    timm_settings,
    torchvision_settings,
)
from contrast.encoders import SCALE, SHIFT, Encoder, build_encoder
from contrast.evaluation.scoring import load_encoder
from contrast.isolation import own_torch
from contrast.run_folder import RunRecord, read_run, refuse_own_file
from shards.atomic import write_atomically
from shards.canonical import JSON

FORMATS = ("torchvision", "timm", "safetensors", "onnx")
SMALL_STEM_LINES = (
    "model.conv1 = torch.nn.Conv2d(3, model.conv1.out_channels, kernel_size=3, stride=1, padding=1, bias=False)",
    "model.maxpool = torch.nn.Identity()",
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote; the card beside the file is this as JSON."""

    path: str
    """Of the file. The card, which may travel with it, has its name alone, as `file`; so does `load`."""
    format: str
    encoder: str
    image_size: int
    feature_dim: int
    input: str
    mean: tuple[float, float, float]
    """Of RGB values in [0, 1]: the model is given (images - mean) / std."""
    std: tuple[float, float, float]
    load: tuple[str, ...]
    """Python that makes `model`, strictly, from `file`."""
    steps: int
    objective: str
    recipe_id: str
    """Of the dataset that the encoder learnt from."""

    def to_json(self) -> dict[str, JSON]:
        """What the card says."""
        fields = asdict(self)
        return {"file": Path(fields.pop("path")).name, **fields}


def export_run(run: str | Path, *, format: str, out: str | Path) -> Exported:
    """Writes the newest encoder of a run to `out`, and its card beside it; see `contrast export --help`.

    Args:
        format: torchvision, timm, safetensors or onnx.

    Raises:
        ValueError: the folder is not a run, the format does not hold this encoder, or its package is not installed.
        DamageError: the checkpoint does not load.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    run, out = Path(run), Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder: give the file to write")
    refuse_own_file(out)
    with own_torch(torch.device("cpu")):
        return _export(run, format, out)


def _export(run: Path, format: str, out: Path) -> Exported:
    record = read_run(run)
    encoder, steps = load_encoder(run, record)
    encoder = encoder.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    size = record.trained_on.image_size
    load = _load_lines(record.config.encoder, encoder, format=format, image_size=size)
    scales_itself = format in ("safetensors", "onnx")
    exported = Exported(
        path=str(out),
        format=format,
        encoder=record.config.encoder,
        image_size=size,
        feature_dim=encoder.feature_dim,
        input=f"RGB [N, 3, {size}, {size}] float32 in [0, 1]"
        + ("" if scales_itself else ", then (images - mean) / std"),
        mean=(0.0,) * 3 if scales_itself else (SHIFT / SCALE,) * 3,
        std=(1.0,) * 3 if scales_itself else (1 / SCALE,) * 3,
        load=load,
        steps=steps,
        objective=record.config.objective,
        recipe_id=record.trained_on.groups.recipe.id,
    )
    data = _to_bytes(encoder, exported, record)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, data)
    write_atomically(card_path(out), (json.dumps(exported.to_json(), indent=1) + "\n").encode())
    return exported


def card_path(out: Path) -> Path:
    """Where the card of an exported file lies."""
    return out.with_name(out.name + ".json")


def _to_bytes(encoder: Encoder, exported: Exported, record: RunRecord) -> bytes:
    if exported.format == "onnx":
        return _onnx_bytes(encoder, exported)
    if exported.format == "torchvision":
        buffer = io.BytesIO()
        torch.save(encoder.backbone.state_dict(), buffer)  # with its versions, which MNASNet asks for
        return buffer.getvalue()
    from safetensors.torch import save

    module: nn.Module = encoder if exported.format == "safetensors" else encoder.backbone
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    if exported.format == "safetensors":
        _check_plain_loading(state, exported)
    metadata = {name: str(value) for name, value in exported.to_json().items() if name not in ("file", "load")}
    return save(state, metadata)


def _check_plain_loading(state: dict[str, Tensor], exported: Exported) -> None:
    """MNASNet, for one, loads only from a state dict with its version, which safetensors do not keep."""
    with torch.random.fork_rng(devices=[]):
        fresh = build_encoder(exported.encoder, image_size=exported.image_size)
    try:
        fresh.load_state_dict(state, strict=True)
    except ValueError as error:
        raise ValueError(
            f"encoder {exported.encoder} does not load from tensors alone ({error}): use another --format"
        ) from error


def _onnx_bytes(encoder: Encoder, exported: Exported) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: pip install -e '.[onnx]' in the clone") from None
    images = torch.zeros(2, 3, exported.image_size, exported.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own use of what newer versions of torch deprecate
        program = torch.onnx.export(
            encoder,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    model = program.model_proto
    keys = {name: str(value) for name, value in exported.to_json().items() if name not in ("file", "load")}
    onnx.helper.set_model_props(model, keys)
    return model.SerializeToString()


def _load_lines(name: str, encoder: Encoder, *, format: str, image_size: int) -> tuple[str, ...]:
    if format == "onnx":
        return (
            "import onnxruntime",
            "model = onnxruntime.InferenceSession(file)  # model.run(None, {'images': images})",
        )
    if format == "safetensors":
        return (
            "from safetensors.torch import load_file",
            "from contrast.encoders import build_encoder",
            f"model = build_encoder({name!r}, image_size={image_size})",
            "model.load_state_dict(load_file(file), strict=True)",
            "model.eval()",
        )
    library, model = split_name(name) or ("torchvision", name)
    has_small_stem = image_size <= SMALL_IMAGE_SIZE and _was_large_stem(encoder.backbone)
    stem = SMALL_STEM_LINES if has_small_stem else ()
    if format == "timm" and _is_timm(model, encoder.backbone.state_dict(), stem=stem, image_size=image_size):
        arguments = "".join(f", {key}={value}" for key, value in timm_settings(model, image_size).items())
        return (
            "import timm, torch",
            "from safetensors.torch import load_file",
            f"model = timm.create_model({model!r}{arguments})",
            *stem,
            "model.load_state_dict(load_file(file), strict=True)",
            "model.eval()",
        )
    if format == "torchvision" and library == "torchvision" and name != "convnet-small":
        import torchvision

        settings = torchvision_settings(model, image_size)
        classifier = classifier_name(torchvision.models.get_model(model, weights=None, **settings))
        arguments = "".join(f", {key}={value}" for key, value in settings.items())
        return (
            "import torch, torchvision",
            f"model = torchvision.models.get_model({model!r}, weights=None{arguments})",
            f"model.set_submodule({classifier!r}, torch.nn.Identity())",
            *stem,
            "model.load_state_dict(torch.load(file, weights_only=True), strict=True)",
            "model.eval()",
        )
    raise ValueError(f"encoder {name} is no model of {format}: use --format safetensors or onnx")


def _was_large_stem(backbone: nn.Module) -> bool:
    """Whether `contrast.backbones.replace_small_stem` was at work."""
    return isinstance(getattr(backbone, "maxpool", None), nn.Identity) and not has_large_stem(backbone)


def _is_timm(model: str, state: dict[str, Tensor], *, stem: tuple[str, ...], image_size: int) -> bool:
    """Whether timm has a model of this name with these weights; ResNets are the same in both libraries."""
    if model not in timm_names():
        return False
    import timm

    theirs = timm.create_model(model, pretrained=False, **timm_settings(model, image_size)).state_dict()
    changed = {"conv1.weight"} if stem else set()
    return theirs.keys() == state.keys() and all(
        theirs[name].shape == state[name].shape for name in state if name not in changed
    )
