"""The manifest that a dataset is rendered from again, as `synthgen render --from` names it.

original = read_original(RenderConfig(manifest=Path("theirs/manifest.json"), out=Path("ours")))
original.manifest.recipe
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shards.manifest import MANIFEST_NAME, Manifest, load_manifest, parse_manifest
from shards.quantities import format_count
from synthgen.config import RenderConfig


@dataclass(frozen=True, kw_only=True)
class Original:
    """The manifest that a dataset is rendered from, as it was before the render, and where it lay."""

    path: Path
    manifest: Manifest


def read_original(config: RenderConfig) -> Original:
    """The manifest of the request, a manifest.json or the folder that holds one, fit to be rendered into its `out`.

    Raises:
        ValueError: there is none, or `out` holds a dataset of another size.
        DamageError: it is not as it was written.
    """
    assert config.manifest is not None
    path, out = config.manifest, config.out
    if path.is_dir():
        path = path / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(f"--from {path}: there is no such file; give a manifest.json, or the folder that holds it")
    manifest = parse_manifest(path.read_bytes(), str(path))
    if (out / MANIFEST_NAME).exists():
        held = load_manifest(out).num_groups
        if held != manifest.num_groups:
            raise ValueError(
                f"{out} holds {format_count(held)} groups, {path} describes {format_count(manifest.num_groups)}: "
                "choose an empty or new folder"
            )
    return Original(path=path, manifest=manifest)
