"""What of a .pt2 file may be loaded: a stranger's program must not be able to run code of its own.

torch.export.load is not made for strangers' files. As of torch 2.14 it unpickles sample inputs (falling back to a full
unpickler where the safe one refuses), unpickles weights and constants that say so, loads compiled libraries, evaluates
sizes and guards as Python, and looks up any function of torch by name. So the file is looked through before that, and
what is loaded is a new archive made of the parts that passed, never the file itself: two readers may not agree about
a crafted zip, and the file may change in between.

    program = read_program_file(Path("faces.pt2"))
    torch.export.load(program.archive)
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXTRA_NAME = "synthgen.json"
"""Extra file of a program that says what its signature cannot: num_classes, class_names."""

# The archive of torch >= 2.8, below one folder, and the one of torch 2.6 and 2.7.
_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|"
    r"data/weights/weight_\d+|data/constants/tensor_\d+|extra(_files)?/[\w.\- ]+"
)
_PICKLES = re.compile(r"data/(weights|constants)/model\.pt|serialized_(state_dict|constants)\.pt")
_EXAMPLES = re.compile(r"data/sample_inputs/model\.pt|serialized_example_inputs\.pt")
_SAFE_UNPICKLER = (2, 10)
"""Version of torch from which a crafted pickle cannot harm its safe unpickler (CVE-2026-24747)."""
_CONFIGS = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_PROGRAMS = ("models/model.json", "serialized_exported_program.json")

_NAME = re.compile(r"[\w.+\-:]*", re.ASCII)
_ARGUMENT = re.compile(r"[\w.,:;=+\-*/> ]*", re.ASCII)  # an operator's text, such as an einsum's
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.[a-z_]\w*\.\w+|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)|"
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)|"
    r"torch\.sym_(max|min|float|int|not|ite|sum)|math\.(ceil|floor|trunc)",
    re.ASCII,
)
# Those that touch files, and those of layouts whose indices torch does not check.
_REFUSED_OPERATORS = re.compile(
    r"torch\.ops\.aten\.(save|_save\w*|\w*(file|sparse|nested|jagged|to_dense|coalesce|segment_reduce)\w*)\.", re.ASCII
)
_SIZE_TOKEN = re.compile(r"'[a-z]+\d+'|[A-Za-z_]\w*|\d+(\.\d+)?|[()+\-*/,=<> ]", re.ASCII)
_SIZE_WORD = re.compile(
    r"Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|(Python)?Mod|(Floor|Ceil|Clean)Div|ModularIndexing|"
    r"(Floor|Ceil)ToInt|IntTrueDiv|PowByNatural|Eq|Ne|L[te]|G[te]|And|Or|Not|Equality|Unequality|"
    r"(Strict)?(Less|Greater)Than|positive|nonnegative|nonzero|integer|real|finite|True|False|[a-z]{1,3}\d+",
    re.ASCII,
)
_TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")


@dataclass(frozen=True, kw_only=True)
class ProgramFile:
    """A checked program."""

    archive: io.BytesIO
    """What torch.export.load is to be given."""
    sha256: str
    """Of the whole file on disk."""
    extra: Mapping[str, Any]
    """The contents of its extra file `synthgen.json`; empty where there is none."""


class _UnsafeError(Exception):
    """A part that could run code when the program is loaded; the text says which."""


def read_program_file(path: Path) -> ProgramFile:
    """Reads a program saved by torch.export.save, leaving out or refusing whatever could run code.

    Left out: guards, node metadata (stack traces) and example inputs. Refused: pickles that torch's safe unpickler does
    not take, tensor subclasses, custom objects, compiled code, and operators outside of aten, prims and torchvision.

    Raises:
        ValueError: no such file, no such program, or one with a refused part; the message names the part.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"no file {path}: check the path, or give its folder as --weights") from None
    try:
        parts = _read_zip(data)
        extra, rebuilt = {}, io.BytesIO()
        with zipfile.ZipFile(rebuilt, "w", zipfile.ZIP_STORED) as archive:
            for name, part in parts.items():
                short = name if name in _PROGRAMS else _below_root(name)
                archive.writestr(name, _checked_part(short, part))
                if short in (f"extra/{EXTRA_NAME}", f"extra_files/{EXTRA_NAME}"):
                    extra = _parse_extra(part)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} is no program of torch.export.save ({error}): export the network with "
            "synthgen.adapters.program_export (see docs/bring-your-own-generator.md)"
        ) from None
    except _UnsafeError as error:
        raise ValueError(
            f"{path} holds {error}, and is not loaded: ask for a program as torch.export.save writes it, with plain "
            "tensors and torch's own operators"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:  # RuntimeError: an encrypted part
        raise ValueError(f"{path} cannot be read as a program ({_reason(error)}): export it again") from error
    rebuilt.seek(0)
    return ProgramFile(archive=rebuilt, sha256=hashlib.sha256(data).hexdigest(), extra=extra)


def _read_zip(data: bytes) -> dict[str, bytes]:
    parts: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if min((entry.header_offset for entry in archive.infolist()), default=0) > 0:
            raise zipfile.BadZipFile("it is cut short")  # what was found is an archive inside of it
        for entry in archive.infolist():
            if entry.filename in parts:
                raise _UnsafeError(f"two parts called {entry.filename}")
            if entry.compress_type != zipfile.ZIP_STORED:  # torch writes none, and it could unpack to any size
                raise _UnsafeError(f"the compressed part {entry.filename}")
            parts[entry.filename] = archive.read(entry)
    if any(_below_root(name) == "data.pkl" for name in parts):
        raise _UnsafeError("a pickle of torch.save, not a program")
    if sum(name in _PROGRAMS or _below_root(name) in _PROGRAMS for name in parts) != 1:
        raise zipfile.BadZipFile("it holds no model")
    return parts


def _below_root(name: str) -> str:
    """Torch >= 2.8 puts everything below one folder, whatever its name; the older archive has none."""
    old = any(pattern.fullmatch(name) for pattern in (_PLAIN, _PICKLES, _EXAMPLES))
    return name if old else name.split("/", 1)[-1]


def _checked_part(name: str, part: bytes) -> bytes:
    if name in _PROGRAMS:
        return json.dumps(_checked_program(json.loads(part))).encode()
    if _EXAMPLES.fullmatch(name):
        return b""
    if _PICKLES.fullmatch(name):
        _check_pickle(name, part)
    elif _CONFIGS.fullmatch(name):
        _check_config(name, json.loads(part))
    elif not _PLAIN.fullmatch(name):
        raise _UnsafeError(f"the part {name[:60]!r}, which is not one of a plain program")
    return part


def _check_pickle(name: str, part: bytes) -> None:
    """The very bytes have to pass the safe unpickler; those that do hold nothing that the full one could run."""
    import torch

    if not part:
        return
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < _SAFE_UNPICKLER:
        raise _UnsafeError(
            f"a pickle in {name}, which torch {torch.__version__} cannot read safely (CVE-2026-24747; torch 2.10 can)"
        )
    try:
        torch.load(io.BytesIO(part), weights_only=True, map_location="cpu")
    except Exception as error:
        raise _UnsafeError(f"a pickle in {name} that is more than tensors ({_reason(error)})") from error


def _check_config(name: str, config: Any) -> None:
    _checked(config, "")
    for tensor, entry in config["config"].items():
        if not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise _UnsafeError(f"the custom object {tensor[:60]!r} in {name}")
        if entry.get("use_pickle"):
            raise _UnsafeError(f"the pickled tensor {tensor[:60]!r} in {name}")


# ---------------------------------------------------------------------------------------------------------------------
# The graph, as JSON


def _checked_program(program: dict[str, Any]) -> dict[str, Any]:
    if "guards_code" in program:
        program["guards_code"] = []  # Python; what they hold is checked by the signature
    return _checked(program, "")


def _checked(value: Any, field: str) -> Any:
    """The same JSON without metadata; every text in it is a name, an operator, a size or a tree, and nothing more."""
    if isinstance(value, dict):
        for key in value:
            _check_name(key)
        return {key: {} if key == "metadata" else _checked(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_checked(item, field) for item in value]
    if isinstance(value, str):
        _CHECKS.get(field, _check_name)(value)
    return value


def _check_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise _UnsafeError(f"the text {text[:60]!r} where a name belongs")


def _check_argument(text: str) -> None:
    if not _ARGUMENT.fullmatch(text):
        raise _UnsafeError(f"the text {text[:60]!r} as an operator's argument")


def _check_target(text: str) -> None:
    if not _TARGET.fullmatch(text) or _REFUSED_OPERATORS.match(text):
        raise _UnsafeError(f"a call of {text[:60]!r}, which is no operator of an image generator")


def _check_size(text: str) -> None:
    """Sizes are evaluated as Python by sympy: every token has to be a number, a symbol, or a known function."""
    position = 0
    while position < len(text):
        token = _SIZE_TOKEN.match(text, position)
        word = token[0] if token else ""
        is_word = word[:1].isalpha() or word.startswith("_")
        if not word or (is_word and not _SIZE_WORD.fullmatch(word)):
            raise _UnsafeError(f"the expression {text[:60]!r} where a size belongs")
        position += len(word)


def _check_tree(text: str) -> None:
    """How arguments are nested: tuples, lists and dictionaries; other types would import modules by name."""
    _, tree = json.loads(text)
    pending = [tree]
    while pending:
        node = pending.pop()
        keys = json.loads(node["context"]) if node["context"] else None
        names = keys or []
        if node["type"] not in _TREE_TYPES or not isinstance(names, list) or not all(isinstance(k, str) for k in names):
            raise _UnsafeError(f"arguments of the type {str(node['type'])[:60]!r}")
        pending += node["children_spec"]


_CHECKS: Mapping[str, Callable[[str], None]] = {
    "target": _check_target,
    "as_operator": _check_target,
    "as_string": _check_argument,
    "as_strings": _check_argument,
    "expr_str": _check_size,
    "in_spec": _check_tree,
    "out_spec": _check_tree,
}


def _parse_extra(part: bytes) -> dict[str, Any]:
    extra = json.loads(part)
    if not isinstance(extra, dict):
        raise ValueError(f"its {EXTRA_NAME} is no JSON object")
    return extra


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]
