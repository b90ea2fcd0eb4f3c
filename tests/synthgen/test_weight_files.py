"""Weights: found where they may lie, loaded whole or refused with the fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_pretrained_biggan import BigGAN
from safetensors.torch import load_file, save_file

from synthgen import generators, load_generator
from synthgen.adapters import weight_files
from synthgen.adapters.architecture import PUBLISHED_CONFIGS

LATENTS = torch.linspace(-1.5, 1.5, 5 * 16).reshape(5, 16)
LABELS = torch.arange(5)
Layout = Callable[[Path, BigGAN], Path]


def load(weights: Path, name: str = "biggan-deep-32"):
    return load_generator(name, weights=weights, device="cpu", dtype="float32")


@pytest.fixture
def copied_weights(tiny_weights: Path, tmp_path: Path) -> Path:
    """A folder of weights that a test may harm."""
    return Path(shutil.copytree(tiny_weights, tmp_path / "weights"))


def test_both_layouts_and_a_file_give_the_same_images(
    network_maker: Callable[..., BigGAN], published_layout: Layout, package_layout: Layout, tmp_path: Path
) -> None:
    published = load(published_layout(tmp_path / "published", network_maker()))
    package = load(package_layout(tmp_path / "package", network_maker()))
    file = load(tmp_path / "package" / "biggan-deep-32.safetensors")
    images = package.sample(LATENTS, LABELS)
    torch.testing.assert_close(published.sample(LATENTS, LABELS), images, rtol=0, atol=5e-3)  # half precision on disk
    torch.testing.assert_close(file.sample(LATENTS, LABELS), images, rtol=0, atol=0)
    assert published.weights_sha256 != package.weights_sha256 == file.weights_sha256


def test_a_configuration_of_its_own_is_told_apart(copied_weights: Path) -> None:
    """The weights file does not say how networks divide, what they up-sample, or what classes are called."""
    path = copied_weights / "biggan-deep-32.json"
    described = json.loads(path.read_text())
    tiny = load(copied_weights)

    def changed(**changes: object) -> str | None:
        path.write_text(json.dumps({**described, **changes}))
        generator = load(copied_weights)
        assert generator.weights_sha256 == tiny.weights_sha256
        return generator.config_sha256

    assert tiny.config_sha256 is not None, "it is not what the package holds under this name"
    assert changed(remark="better") == tiny.config_sha256 == changed(class_names=list(tiny.class_names))
    others = {changed(config={**described["config"], "eps": 1e-2}), changed(class_names=list("abcdefghij"))}
    assert len(others | {tiny.config_sha256}) == 3


def test_the_known_configuration_has_no_digest_wherever_it_lies(tmp_path: Path) -> None:
    for suffix in ("json", "safetensors"):
        shutil.copy(weight_files.PACKAGE_FOLDER / f"biggan-deep-32.{suffix}", tmp_path)
    assert load(tmp_path).config_sha256 is None is load_generator(device="cpu", dtype="float32").config_sha256
    names = weight_files.default_class_names(1000)
    config = json.loads(json.dumps(PUBLISHED_CONFIGS["biggan-deep-128"]))
    assert weight_files.identify_config("biggan-deep-128", config, names) is None
    assert weight_files.identify_config("biggan-deep-256", config, names) is not None


def test_published_name_with_its_own_file_names_and_no_configuration(
    network_maker: Callable[..., BigGAN], published_layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched by hand, the files are called biggan-deep-128-pytorch_model.bin and biggan-deep-128-config.json."""
    folder = published_layout(tmp_path, network_maker())
    (folder / "pytorch_model.bin").rename(folder / "biggan-deep-128-pytorch_model.bin")
    (folder / "config.json").rename(folder / "biggan-deep-128-config.json")
    assert load(folder, "biggan-deep-128").image_size == 32
    config = json.loads((folder / "biggan-deep-128-config.json").read_text())
    (folder / "biggan-deep-128-config.json").unlink()
    monkeypatch.setitem(PUBLISHED_CONFIGS, "biggan-deep-128", config)  # type: ignore[index]
    assert load(folder, "biggan-deep-128").num_classes == 10


def test_missing_weights_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"put biggan-deep-32\.safetensors and biggan-deep-32\.json there"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"no weights of biggan-deep-128 in .*nowhere: put pytorch_model\.bin"):
        load(tmp_path / "nowhere", "biggan-deep-128")


def test_unreachable_address_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "default_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(weight_files, "published_address", lambda name: (tmp_path / "no-such-file.bin").as_uri())
    with pytest.raises(ValueError, match=r"fetch .*no-such-file\.bin elsewhere, .* as pytorch_model\.bin"):
        load_generator("biggan-deep-128", device="cpu")
    assert not list(tmp_path.rglob("*.bin")), "nothing half fetched"


def test_published_weights_are_fetched_once(
    network_maker: Callable[..., BigGAN], published_layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = published_layout(tmp_path / "server", network_maker())
    monkeypatch.setattr(weight_files, "default_folder", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(weight_files, "published_address", lambda name: (source / "pytorch_model.bin").as_uri())
    config = json.loads((source / "config.json").read_text())
    monkeypatch.setitem(PUBLISHED_CONFIGS, "biggan-deep-128", config)  # type: ignore[index]
    first = load_generator("biggan-deep-128", device="cpu", dtype="float32")
    shutil.rmtree(source)
    second = load_generator("biggan-deep-128", device="cpu", dtype="float32")
    assert first.weights_sha256 == second.weights_sha256


@pytest.mark.parametrize("damage", ["flipped byte", "cut", "empty", "not the format"])
def test_corrupt_package_weights_are_refused(copied_weights: Path, damage: str) -> None:
    file = copied_weights / "biggan-deep-32.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(
        {"flipped byte": bytes(data), "cut": data[:-100], "empty": b"", "not the format": b"<html>moved</html>"}[damage]
    )
    with pytest.raises(ValueError, match=r"biggan-deep-32\.safetensors is corrupt .* put the original file back"):
        load(copied_weights)


@pytest.mark.parametrize("data", [b"", b"<html>moved</html>", b"PK\x03\x04 broken"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_unreadable_weights_without_a_checksum_are_refused(copied_weights: Path, data: bytes, name: str) -> None:
    card = json.loads((copied_weights / "biggan-deep-32.json").read_text())
    (copied_weights / "config.json").write_text(json.dumps(card["config"]))
    for file in copied_weights.glob("biggan*"):
        file.unlink()
    file = copied_weights / name
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot be read as weights .* fetch it again"):
        load(file)


def test_a_pickle_that_is_no_table_of_tensors_runs_nothing(copied_weights: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    card = json.loads((copied_weights / "biggan-deep-32.json").read_text())
    (copied_weights / "config.json").write_text(json.dumps(card["config"]))
    (copied_weights / "biggan-deep-32.json").unlink()
    file = copied_weights / "pytorch_model.bin"
    torch.save({"trap": Trap()}, file)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load(file)
    assert not (tmp_path / "sprung").exists()
    torch.save({"epoch": 3}, file)
    with pytest.raises(ValueError, match="no table of tensors"):
        load(file)


def test_weights_that_are_not_whole_are_refused(copied_weights: Path) -> None:
    """`strict=False` alone would render from a half random network."""
    file = copied_weights / "biggan-deep-32.safetensors"
    state = load_file(file)
    del state["generator.layers.1.conv_1.weight"]
    save_file(state, copied_weights / "other.safetensors")
    card = json.loads((copied_weights / "biggan-deep-32.json").read_text())
    (copied_weights / "other.json").write_text(json.dumps(card["config"]))
    with pytest.raises(ValueError, match=r"lacks 1 of the network's tensors \(generator\.layers\.1\.conv_1\.weight"):
        load(copied_weights / "other.safetensors")


def test_weights_of_another_network_are_refused(copied_weights: Path) -> None:
    card_path = copied_weights / "biggan-deep-32.json"
    card = json.loads(card_path.read_text())
    card["config"]["channel_width"] *= 2
    card_path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match="weights of another network than its configuration"):
        load(copied_weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "does not describe a BigGAN-deep"),
        ({"layers": [[True, 16, 8]]}, "end at width 8"),
        ({"layers": [[True, 8, 4]]}, "layer 0 goes from width 8"),
        ({"class_names": ["cat"]}, "names 1 of 10 classes"),
        ({"z_dim": None}, "lacks z_dim"),
    ],
)
def test_wrong_configurations_are_refused(copied_weights: Path, change: object, message: str) -> None:
    path = copied_weights / "biggan-deep-32.json"
    if isinstance(change, dict):
        card = json.loads(path.read_text())
        for key, value in change.items():
            target = card if key == "class_names" else card["config"]
            target[key] = value
            if value is None:
                del target[key]
        path.write_text(json.dumps(card))
    else:
        path.write_text(str(change))
    with pytest.raises(ValueError, match=message):
        load(copied_weights)
    path.unlink()
    with pytest.raises(ValueError, match=r"no configuration beside it: put biggan-deep-32\.json there"):
        load(copied_weights)


def test_the_table_says_whether_weights_are_here(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "default_folder", lambda name: tiny_weights)
    rows = {row["name"]: row for row in generators()}
    assert list(rows) == ["biggan-deep-32", "biggan-deep-128", "biggan-deep-256", "biggan-deep-512"]
    assert rows["biggan-deep-32"]["weights"] == str(tiny_weights / "biggan-deep-32.safetensors")
    assert rows["biggan-deep-32"]["classes"] == 10
    assert rows["biggan-deep-512"]["weights"] is None and rows["biggan-deep-512"]["parameters"] == 56_163_905
    monkeypatch.setattr(weight_files, "default_folder", lambda name: tiny_weights / "nowhere")
    assert generators()[0]["parameters"] is None
