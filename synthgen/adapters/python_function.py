"""A generator that a function of the user's own makes: --generator module:function.

    generator = load_from_function("my_faces:make", weights=None, truncation=1.0, device=device, dtype="auto")

The function is given those of weights, truncation, device and dtype that it names, as keywords, and returns an object
with image_size, latent_dim, weights_sha256 and sample(latents, labels).
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch

from shards.errors import describe_error
from synthgen.adapters.own_generator import OwnGenerator
from synthgen.adapters.weight_files import file_sha256

_OFFERED = ("weights", "truncation", "device", "dtype")


def load_from_function(
    name: str, *, weights: Path | None, truncation: float, device: torch.device, dtype: str
) -> OwnGenerator:
    """What module:function makes, its attributes checked.

    Args:
        weights: file or folder, for the function alone; a file's sha256 goes into the recipe.
        dtype: as in `synthgen.adapters.load_generator`; auto is float32 for a function that asks for none.

    Raises:
        ValueError: the function cannot be found or called, or what it returned lacks something.
    """
    from synthgen.devices import choose_dtype

    function = find_function(name)
    wanted = _wanted(function, name)
    _check_request(function, name, wanted, weights=weights, dtype=dtype)
    digest = file_sha256(weights) if weights is not None and weights.is_file() else None
    number_format = choose_dtype(dtype, device) if "dtype" in wanted else "float32"
    offered = {
        "weights": weights,
        "truncation": truncation,
        "device": device,
        "dtype": getattr(torch, number_format),
    }
    try:
        model = function(**{key: offered[key] for key in wanted})
    except (Exception, SystemExit) as error:  # sys.exit in a stranger's module would end us with its code, unsaid
        raise ValueError(f"{name} failed ({describe_error(error)}); SHARDS_TRACEBACK=1 shows where") from error
    if digest is not None and weights is not None and file_sha256(weights) != digest:
        raise ValueError(f"{weights} changed while it was loaded: run the same command again when it is complete")
    if model is None:
        raise ValueError(f"{name} returned nothing: let it return the object that has sample(latents, labels)")
    known = _weights_sha256(model, name, weights=weights, digest=digest)
    return OwnGenerator(model, name=name, weights_sha256=known, dtype=number_format)


def _check_request(
    function: Callable[..., Any], name: str, wanted: Collection[str], *, weights: Path | None, dtype: str
) -> None:
    """Raises ValueError where the function does not take what is given, or needs what is not."""
    if weights is None and _needs_weights(function):
        raise ValueError(f"{name} needs weights: give a file or folder as --weights")
    if weights is not None and "weights" not in wanted:
        raise ValueError(f"{name} takes no weights: omit --weights, or give the function a keyword weights")
    if dtype not in ("auto", "float32") and "dtype" not in wanted:
        raise ValueError(f"{name} takes no dtype: omit --dtype, or give the function a keyword dtype")
    if weights is not None and not weights.exists():
        raise ValueError(f"no weights {weights}: check the path")


def _weights_sha256(model: Any, name: str, *, weights: Path | None, digest: str | None) -> str:
    """What the object says of its weights, and what their file says; the two agree."""
    stated = getattr(model, "weights_sha256", None)
    if stated is None and digest is None:
        raise ValueError(
            f"{name}: its object has no weights_sha256: give it one, such as "
            "synthgen.adapters.weight_files.file_sha256(path), or give --weights a file"
        )
    if stated is not None and digest not in (None, stated):
        raise ValueError(
            f"{name}: weights_sha256 is {str(stated)[:12]}…, and {weights} has {str(digest)[:12]}…: "
            "give the file that belongs to it, or omit the attribute"
        )
    return digest or str(stated)


def takes_dtype(name: str) -> bool:
    """Whether the function asks for a number format."""
    return "dtype" in _wanted(find_function(name), name)


def find_function(name: str) -> Callable[..., Any]:
    """The function that module:function names; modules of the current folder are found, too.

    Raises:
        ValueError: no such module or function, or the module cannot be imported.
    """
    module_name, function_name = name.split(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as python -m does; a console script does not
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ValueError(
                f"no module {error.name} for --generator {name}: run from the folder of "
                f"{error.name.split('.')[0]}.py, or install it"
            ) from None
        raise ValueError(f"{module_name} cannot be imported ({describe_error(error)}): install it") from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{module_name} cannot be imported ({describe_error(error)}); SHARDS_TRACEBACK=1 shows where"
        ) from error
    if not hasattr(module, function_name):
        raise ValueError(f"{module_name} ({module.__file__}) has no {function_name}: check --generator {name}")
    function = getattr(module, function_name)
    if not callable(function):
        raise ValueError(f"{name} is no function but {function!r:.40}: name one that makes the generator")
    return function


def _wanted(function: Callable[..., Any], name: str) -> tuple[str, ...]:
    """Those of our keywords that the function names; all of them where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return _OFFERED
    for parameter in parameters:
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if required and (parameter.name not in _OFFERED or parameter.kind is parameter.POSITIONAL_ONLY):
            raise ValueError(f"{name} needs {parameter.name}: it is given {', '.join(_OFFERED)} by keyword, no other")
    return tuple(parameter.name for parameter in parameters if parameter.name in _OFFERED)


def _needs_weights(function: Callable[..., Any]) -> bool:
    parameter = inspect.signature(function).parameters.get("weights")
    return parameter is not None and parameter.default is parameter.empty
