"""A dataset of torchvision as an image folder, which every other tool reads, `shards from-images` among them.

write_image_folder("STL10", out=Path("datasets/stl10"))          # datasets/stl10/[train|test]/CLASS/000000.png
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from contrast.evaluation.torchvision_sets import TorchvisionPictures, open_torchvision
from shards.atomic import flush_folder
from shards.progress import Progress


def write_image_folder(name: str, *, out: Path, root: Path | None, quiet: bool) -> dict[str, int]:
    """Writes both parts as PNG, the folder whole or not at all, and gives the number of images of each.

    A dataset without parts of its own becomes FOLDER/CLASS/…, of which every tenth image is for testing wherever it is
    read.

    Raises:
        ValueError: there is no such dataset, or `out` is there already, or two classes share a folder's name.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: use it, or choose a new folder")
    parts = {split: open_torchvision(name, split=split, root=root) for split in ("train", "test")}
    folders = [_folder_name(class_name) for class_name in parts["train"].class_names]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"torchvision's {parts['train'].title} has two classes of one name: it cannot be an image folder"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    total = sum(len(part) for part in parts.values())
    try:
        with Progress(total=total, unit="images", label="writing", quiet=quiet) as progress:
            for split, part in parts.items():
                _write_part(part, temporary / split if part.has_split else temporary, folders, progress)
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush_folder(out.parent)
    return {split: len(part) for split, part in parts.items()}


def _write_part(part: TorchvisionPictures, folder: Path, names: list[str], progress: Progress) -> None:
    for label in np.unique(part.labels).tolist():
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
    for position, label in enumerate(part.labels.tolist()):
        # The name is the place in the dataset: what is held out by name order is then held out by this order, too.
        part.read(position).save(folder / names[label] / f"{int(part.rows[position]):07d}.png")
        progress.advance(1)


def _folder_name(class_name: str) -> str:
    return class_name.replace("/", "-").strip(". ") or "class"
