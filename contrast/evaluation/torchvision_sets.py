"""torchvision's datasets by name, whatever their constructors call a training and a test part.

pictures = open_torchvision("STL10", split="test", root=None)
pictures.read(0), pictures.labels, pictures.class_names
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contrast.data import default_folder
from shards.pictures import FOLDER_TEST_EVERY, explain_damage, rank_within_class, refuse_deep_grey

SPLIT_NAMES = {"train": ("train", "trainval", "train-standard"), "test": ("test", "val", "valid")}
"""What constructors call the two parts, the usual name first."""


@dataclass(frozen=True, kw_only=True)
class TorchvisionPictures:
    """One part of a dataset of torchvision."""

    title: str
    """The dataset's name, as torchvision writes it."""
    dataset: Any
    rows: np.ndarray
    """int64 [N], the positions in the dataset that belong to this part."""
    labels: np.ndarray
    """int64 [N], positions in class_names."""
    class_names: tuple[str, ...]
    has_split: bool
    """Whether the dataset has parts of its own; else every tenth image of a class is for testing."""

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, position: int) -> Image.Image:
        """RGB.

        Raises:
            DamageError: it does not decode, or holds grey levels of more than 8 bits.
        """
        row = int(self.rows[position])
        name = _name_of(self.title, row)
        with explain_damage(name):
            picture: Image.Image = self.dataset[row][0]
            refuse_deep_grey(picture, name)
            return picture.convert("RGB")


def open_torchvision(name: str, *, split: str, root: Path | None) -> TorchvisionPictures:
    """The training or test part of a dataset, fetched where torchvision can and it is not there.

    Raises:
        ValueError: there is no such dataset, it cannot be had, or its images have no single class.
    """
    import torchvision.datasets

    matches = [known for known in torchvision.datasets.__all__ if known.lower() == name.lower().replace("-", "")]
    if not matches:
        raise ValueError(f"no folder {name} and no torchvision dataset of that name: check the name")
    title = matches[0]
    constructor: Callable[..., Any] = getattr(torchvision.datasets, title)
    parameters = inspect.signature(constructor).parameters
    folder = root or default_folder().parent / title.lower()
    arguments: dict[str, Any] = {"root": str(folder)}
    if "download" in parameters:
        folder.mkdir(parents=True, exist_ok=True)
        arguments["download"] = True
    choices: list[dict[str, Any]] = [{}]
    if "train" in parameters:
        choices = [{"train": split == "train"}]
    elif "split" in parameters:
        choices = [{"split": name} for name in SPLIT_NAMES[split]]
    dataset = _construct(title, constructor, arguments, choices, folder)
    labels = _labels_of(title, dataset)
    has_split = choices != [{}]
    rows = np.arange(len(labels))
    if not has_split:
        is_test = rank_within_class(labels) % FOLDER_TEST_EVERY == FOLDER_TEST_EVERY - 1
        rows = np.flatnonzero(is_test if split == "test" else ~is_test)
    names = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or range(int(labels.max()) + 1)
    return TorchvisionPictures(
        title=title,
        dataset=dataset,
        rows=rows,
        labels=labels[rows],
        class_names=tuple(", ".join(name) if isinstance(name, tuple) else str(name) for name in names),
        has_split=has_split,
    )


def _construct(
    title: str, constructor: Callable[..., Any], arguments: dict[str, Any], choices: list[dict[str, Any]], folder: Path
) -> Any:
    for choice in choices:
        try:
            return constructor(**arguments, **choice)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"torchvision's {title} cannot be had here ({error}): put its files into {folder}"
            ) from error
        except TypeError as error:
            raise ValueError(f"torchvision's {title} wants more than a name ({error}): give an image folder") from error
        except ValueError as error:  # it calls this part something else
            reason = error
    raise ValueError(f"torchvision's {title} has no training and test part ({reason}): give an image folder")


def _name_of(title: str, row: int) -> str:
    return f"image {row} of torchvision's {title}"


def _labels_of(title: str, dataset: Any) -> np.ndarray:
    """int64 [N], from a list that many of them keep, else from the items."""
    for attribute in ("targets", "labels", "_labels"):
        kept = getattr(dataset, attribute, None)
        if kept is not None and len(kept) == len(dataset):
            found = np.asarray(kept)
            if found.ndim == 1 and np.issubdtype(found.dtype, np.integer):
                return found.astype(np.int64)
    labels = np.empty(len(dataset), dtype=np.int64)
    try:
        for row in range(len(dataset)):
            with explain_damage(_name_of(title, row), (OSError, SyntaxError, EOFError)):
                item = dataset[row]
            labels[row] = int(item[1])
        return labels
    except (TypeError, ValueError) as error:
        raise ValueError(f"torchvision's {title} has no single class per image: give an image folder") from error
