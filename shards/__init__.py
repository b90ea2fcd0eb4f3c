"""The dataset on disk: groups of images in tar shards, with a manifest that pins every choice.

    import shards

    shards.info("datasets/demo")
    images, labels = shards.GroupDataset("datasets/demo", n=1000).batch(range(64))

Names are imported when first used. Nothing here knows a model, and nothing imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.codec import decode_image, default_subsampling, encode_image
    from shards.converting import to_ffcv
    from shards.dataset import Group, GroupDataset
    from shards.errors import DamageError
    from shards.folder import finish_dataset, lock_dataset
    from shards.manifest import Manifest, ShardRecord, load_manifest
    from shards.markers import Marker, scan_markers
    from shards.packing import from_images
    from shards.recipe import Recipe, RenderSettings
    from shards.remote import RemoteDataset
    from shards.sheet import preview
    from shards.stream import open_dataset, stream_groups
    from shards.summary import info
    from shards.survey import completed_shards
    from shards.verification import verify
    from shards.writer import ShardWriter

_MODULES = {
    "DamageError": "errors",
    "Group": "dataset",
    "GroupDataset": "dataset",
    "Manifest": "manifest",
    "Marker": "markers",
    "Recipe": "recipe",
    "RemoteDataset": "remote",
    "RenderSettings": "recipe",
    "ShardRecord": "manifest",
    "ShardWriter": "writer",
    "completed_shards": "survey",
    "decode_image": "codec",
    "default_subsampling": "codec",
    "encode_image": "codec",
    "finish_dataset": "folder",
    "from_images": "packing",
    "info": "summary",
    "load_manifest": "manifest",
    "lock_dataset": "folder",
    "open_dataset": "stream",
    "preview": "sheet",
    "scan_markers": "markers",
    "stream_groups": "stream",
    "to_ffcv": "converting",
    "verify": "verification",
}

__all__ = [
    "DamageError",
    "Group",
    "GroupDataset",
    "Manifest",
    "Marker",
    "Recipe",
    "RemoteDataset",
    "RenderSettings",
    "ShardRecord",
    "ShardWriter",
    "completed_shards",
    "decode_image",
    "default_subsampling",
    "encode_image",
    "finish_dataset",
    "from_images",
    "info",
    "load_manifest",
    "lock_dataset",
    "open_dataset",
    "preview",
    "scan_markers",
    "stream_groups",
    "to_ffcv",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'shards' has no attribute '{name}'")
    return getattr(importlib.import_module(f"shards.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
