"""Which classes take part: by id, by name, by ImageNet's ids, from a file, or a list that the literature uses.

    parse_classes("cat,dog", num_classes=10, class_names=generator.class_names)    # (3, 5)
    parse_classes("imagenet100", num_classes=1000)

A generator of 1,000 classes is taken to have ImageNet's, in the order that every published model has: ascending
WordNet ids.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

_LISTS_FOLDER = Path(__file__).parent / "class_lists"
NAMED_LISTS = ("imagenet100",)
"""Lists that go by a name: imagenet100 is that of Tian, Krishnan and Isola (2020)."""
_NUM_IMAGENET_CLASSES = 1000


def parse_classes(
    selection: str | Iterable[int | str], *, num_classes: int, class_names: Sequence[str] = ()
) -> tuple[int, ...]:
    """Class ids, ascending, of 'all', a list such as 0,3,7 or cat,dog, a file, or a name of NAMED_LISTS.

    A class is an id, an exact name, or, of 1,000 classes, an ImageNet id such as n01440764. A file has one a line,
    and # begins a comment. A word that names a class and a file means the class: ./cat means the file.

    Raises:
        ValueError: an unreadable or empty list, a class twice, or one that the generator does not have.
    """
    if isinstance(selection, str) and selection.strip() == "all":
        return tuple(range(num_classes))
    if num_classes == 0:
        raise ValueError("this generator has no classes: omit --classes")
    source, words = _split_classes(selection, num_classes, class_names)
    ids = [find_class(word, source=source, num_classes=num_classes, class_names=class_names) for word in words]
    for repeated in (i for i in ids if ids.count(i) > 1):
        raise ValueError(f"{source}: class {repeated} is given twice; give every class once")
    if not ids:
        raise ValueError(f"{source}: no class id in it; give at least one")
    return tuple(sorted(ids))


def find_class(word: str, *, source: str, num_classes: int, class_names: Sequence[str] = ()) -> int:
    """The id of the class that a word means: an id, an exact name, or an ImageNet id.

    Args:
        source: where the word stands, for the messages.

    Raises:
        ValueError: none, or several.
    """
    word = word.strip()
    if re.fullmatch(r"\d+", word, re.ASCII):
        if int(word) >= num_classes:
            raise ValueError(f"{source}: no class {word}; this generator has classes 0 to {num_classes - 1}")
        return int(word)
    named = [label for label, name in enumerate(class_names) if name == word]
    if len(named) > 1:
        raise ValueError(f"{source}: '{word}' names classes {', '.join(map(str, named))}; give the id")
    if named:
        return named[0]
    if _is_wnid(word):
        if num_classes != _NUM_IMAGENET_CLASSES:
            raise ValueError(f"{source}: {word} is ImageNet's id; this generator has {num_classes} classes, not 1000")
        if word not in _imagenet_labels():
            raise ValueError(f"{source}: {word} is none of ImageNet's 1,000 classes")
        return _imagenet_labels()[word]
    near = difflib.get_close_matches(word, class_names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "give whole numbers such as 0,3,7, or exact names"
    raise ValueError(f"{source}: '{word}' is not a class id or name; {hint}")


@cache
def read_class_list(name: str) -> tuple[str, ...]:
    """ImageNet's ids in the list of this name, imagenet or imagenet100, in the list's own order."""
    lines = (_LISTS_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))


def read_lines(path: str, *, option: str) -> list[str]:
    """The lines of a text file without comments and blank ones.

    Raises:
        ValueError: it is not a text file.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig")  # Windows begins files with a mark
    except UnicodeDecodeError:
        raise ValueError(f"{option} {path}: not a text file; give one with one class a line") from None
    lines = (line.split("#")[0].strip() for line in content.splitlines())
    return [line for line in lines if line]


@cache
def _imagenet_labels() -> dict[str, int]:
    return {wnid: label for label, wnid in enumerate(read_class_list("imagenet"))}


def _is_wnid(word: str) -> bool:
    return re.fullmatch(r"n\d{8}", word, re.ASCII) is not None


def _split_classes(
    selection: str | Iterable[int | str], num_classes: int, class_names: Sequence[str]
) -> tuple[str, list[str]]:
    """Where the classes come from, for the messages, and each of them as it was written."""
    if not isinstance(selection, str):
        if not isinstance(selection, Iterable):
            raise ValueError(f"classes {selection}: give all, or a list of ids such as [0, 3, 7]")
        return "classes", [str(item) for item in selection]
    text = selection
    if text.strip() in NAMED_LISTS:
        if num_classes != _NUM_IMAGENET_CLASSES:
            raise ValueError(f"--classes {text}: it lists ImageNet's classes; this generator has {num_classes}")
        return text.strip(), list(read_class_list(text.strip()))
    words = text.split(",")
    known = [word for word in words if word.strip() in class_names or _is_wnid(word.strip())]
    if re.fullmatch(r"[-+\s\d,]+", text) or len(known) == len(words):
        return "--classes", words
    if os.path.isfile(text):
        return text, read_lines(text, option="--classes")
    if known:
        return "--classes", words
    shown = text if len(text) <= 120 else f"{text[:120]}…"
    raise ValueError(
        f"--classes {shown}: give all, ids such as 0,3,7, class names, or an existing file with one of them a line"
    )
