"""Finding a generator's weights and configuration on disk, and fetching them where they are published.

Three places, in this order: the folder or file given by --weights; the package (the built-in generator) or the cache
folder (the published ones); the published address. What was found is identified by the sha256 of the weights file, and
of its configuration where that is not the one that the generator is known by.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

from shards.canonical import canonical_json, normalised_numbers, plain_copy
from synthgen.adapters.architecture import CONFIG_FIELDS, PUBLISHED_CONFIGS, check_config

PACKAGE_FOLDER = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """A weights file that exists, and the configuration that belongs to it."""

    path: Path
    config: Mapping[str, Any]
    """Fields of pytorch_pretrained_biggan.BigGANConfig."""
    class_names: tuple[str, ...]
    """Empty where nobody wrote them beside the weights."""
    expected_sha256: str | None
    """What the configuration file promises; None where it promises nothing."""

    def sha256(self) -> str:
        """sha256 (hex) of the weights file.

        Raises:
            ValueError: it is not the one that the configuration promises.
        """
        digest = file_sha256(self.path)
        if self.expected_sha256 not in (None, digest):
            raise ValueError(
                f"{self.path} is corrupt (sha256 {digest[:12]}…, not {str(self.expected_sha256)[:12]}…): "
                f"put the original file back{_reinstall(self.path)}"
            )
        return digest


def identify_config(name: str, config: Mapping[str, Any], class_names: Sequence[str]) -> str | None:
    """sha256 (hex) of a configuration and its class names; None for those that the generator is known by.

    Known are what the package holds for the built-in generator, and the published ones.

    Raises:
        ValueError: the package lacks its own.
    """
    described = _describe(config, class_names)
    if name in PUBLISHED_CONFIGS:
        known = _describe(PUBLISHED_CONFIGS[name], default_class_names(1000))
    else:
        package = require_weights(name)
        known = _describe(package.config, package.class_names)
    return None if described == known else hashlib.sha256(described.encode()).hexdigest()


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """ImageNet's names for a thousand classes, numbers otherwise."""
    if num_classes == 1000:
        from torchvision.models import ResNet50_Weights

        return tuple(ResNet50_Weights.DEFAULT.meta["categories"])
    return tuple(str(label) for label in range(num_classes))


def file_sha256(path: str | Path) -> str:
    """sha256 (hex) of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_weights(name: str, location: Path | None = None) -> WeightFiles | None:
    """The weights of the named generator in `location` (a folder or a file) or its default folder; None if not there.

    Raises:
        ValueError: the configuration beside them cannot be read or describes another network.
    """
    folder = location or default_folder(name)
    if folder.is_dir():
        path = _first_file(folder, f"{name}.safetensors", "pytorch_model.bin", f"{name}-pytorch_model.bin")
    else:
        path = folder if folder.is_file() else None
    if path is None:
        return None
    config_path = _first_file(path.parent, f"{path.stem}.json", f"{name}.json", f"{name}-config.json", "config.json")
    if config_path is not None:
        return _with_config_file(path, config_path)
    if name not in PUBLISHED_CONFIGS:
        raise ValueError(f"{path} has no configuration beside it: put {path.stem}.json there")
    return WeightFiles(path=path, config=PUBLISHED_CONFIGS[name], class_names=(), expected_sha256=None)


def require_weights(name: str, location: Path | None = None) -> WeightFiles:
    """As find_weights, but fetches published weights that are not there yet.

    Raises:
        ValueError: there are none; the message says which file to put where.
    """
    found = find_weights(name, location)
    if found is not None:
        return found
    if location is not None:
        raise ValueError(
            f"no weights of {name} in {location}: put {_file_names(name)} there, or give --weights another place"
        )
    if name not in PUBLISHED_CONFIGS:
        raise ValueError(
            f"the package lacks {PACKAGE_FOLDER / name}.safetensors: reinstall it, or give a folder with "
            f"{_file_names(name)} as --weights"
        )
    download_weights(name)
    found = find_weights(name)
    assert found is not None
    return found


def default_folder(name: str) -> Path:
    """Where a generator's weights lie when --weights does not say: the package, or the user's cache folder."""
    if name not in PUBLISHED_CONFIGS:
        return PACKAGE_FOLDER
    from platformdirs import user_cache_path

    return user_cache_path("synthgen") / name


def published_address(name: str) -> str:
    """Where the weights of a published generator can be fetched from."""
    from pytorch_pretrained_biggan.model import PRETRAINED_MODEL_ARCHIVE_MAP

    return PRETRAINED_MODEL_ARCHIVE_MAP[name]


def download_weights(name: str) -> Path:
    """Fetches published weights into the cache folder, whole or not at all, and gives their path.

    Raises:
        ValueError: the address cannot be reached.
    """
    from torch.hub import download_url_to_file

    address, folder = published_address(name), default_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "pytorch_model.bin"
    try:
        download_url_to_file(address, str(target), progress=True)
    except (URLError, OSError) as error:
        raise ValueError(
            f"cannot fetch the weights of {name} ({_reason(error)}): fetch {address} elsewhere, put it into a folder "
            "as pytorch_model.bin, and give the folder as --weights"
        ) from error
    return target


def _with_config_file(path: Path, config_path: Path) -> WeightFiles:
    fix = "put the file that belongs to the weights back" + _reinstall(config_path)
    try:
        data = json.loads(config_path.read_text(encoding="utf-8"))
        config = data.get("config", data)
        check_config(config)
        names = tuple(str(name) for name in data.get("class_names", ()))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{config_path} does not describe a BigGAN-deep ({_reason(error)}): {fix}") from error
    if names and len(names) != config["num_classes"]:
        raise ValueError(f"{config_path} names {len(names)} of {config['num_classes']} classes: {fix}")
    return WeightFiles(path=path, config=config, class_names=names, expected_sha256=data.get("sha256"))


def _describe(config: Mapping[str, Any], class_names: Sequence[str]) -> str:
    """One text for configurations that make the same network, and names."""
    fields = {field: config[field] for field in CONFIG_FIELDS}
    return canonical_json(normalised_numbers(plain_copy({**fields, "class_names": list(class_names)}, "config")))


def _first_file(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _file_names(name: str) -> str:
    if name in PUBLISHED_CONFIGS:
        return "pytorch_model.bin (and its config.json)"
    return f"{name}.safetensors and {name}.json"


def _reinstall(path: Path) -> str:
    return ", or reinstall the package" if path.parent == PACKAGE_FOLDER else ""


def _reason(error: BaseException) -> str:
    return " ".join(f"{error}".split())[:120] or type(error).__name__
