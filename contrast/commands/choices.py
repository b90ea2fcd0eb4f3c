"""What the command line lets one choose from. The registries import torch, and --help is faster without it."""

from __future__ import annotations

OBJECTIVES = ("simclr", "multi-positive", "supcon", "vicreg", "cross-entropy", "inverter")
POSITIVES = ("both", "tx", "tz", "shuffled")
READERS = ("tar", "webdataset", "ffcv")
OPTIMIZERS = ("adamw", "sgd", "lars")
PRECISIONS = ("auto", "float32", "bfloat16")
EXPORT_FORMATS = ("torchvision", "timm", "safetensors", "onnx")
