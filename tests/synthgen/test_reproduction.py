"""A dataset from a manifest alone: the same bytes, or a line that says what differs, why, and by how much."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import synthgen
from shards.codec import encode_image
from shards.dataset import GroupDataset
from shards.errors import DamageError
from shards.folder import finish_dataset, lock_dataset
from shards.manifest import load_manifest
from shards.verification import verify
from shards.writer import ShardWriter
from synthgen.cli import main
from synthgen.config import FREE_OPTIONS, RenderConfig
from synthgen.reproduction import _environment_difference

CHOICES = {"std": 0.5, "truncation": 0.7, "classes": "1,4", "seed": 3, "num_views": 2, "quality": 80, "size": 24}
DECIDED = {
    "n": 40,
    "views": "gaussian",
    "radius": 0.3,
    "degrees": 20.0,
    "strength": 1.0,
    "edits": "zoom",
    "class_weights": "0:3",
    "format": "jpg",
    "store_latents": True,
    "shard_size": 30,
    "batch_size": 20,
    "dtype": "float32",
    "compile": True,
    **CHOICES,
}


@pytest.fixture(scope="module")
def original(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 groups in shards of 30, with every choice another than the default; not to be written to."""
    folder = tmp_path_factory.mktemp("original") / "d"
    settings = {"weights": tiny_weights, "devices": "cpu", "dtype": "float32", "batch_size": 20, "shard_size": 30}
    synthgen.render(n=70, out=folder, store_latents=True, quiet=True, **settings, **CHOICES)
    return folder


@pytest.fixture
def copy_manifest(original: Path, tmp_path: Path) -> Callable[..., Path]:
    """The original's manifest alone, in a folder of its own, with fields replaced."""

    def copy(**changes: object) -> Path:
        data = {**json.loads((original / "manifest.json").read_text()), **changes}
        path = tmp_path / "their-manifest.json"
        path.write_text(json.dumps(data))
        return path

    return copy


@pytest.fixture
def elsewhere(original: Path, tmp_path: Path) -> Callable[[int, str], Path]:
    """The original as another device would have made it: every pixel off by so much, and its name in the markers."""

    def make(step: int, device: str) -> Path:
        folder = tmp_path / "elsewhere"
        dataset = GroupDataset(original)
        manifest = dataset.manifest
        with lock_dataset(folder):
            for shard in manifest.shards:
                with ShardWriter(
                    folder,
                    recipe=manifest.recipe,
                    render=manifest.render,
                    shard_index=shard.index,
                    first=shard.first,
                    count=shard.count,
                    class_names=manifest.class_names,
                ) as writer:
                    for index in range(shard.first, shard.first + shard.count):
                        group = dataset[index]
                        pixels = np.clip(group.images.astype(int) + step, 0, 255).astype(np.uint8)
                        images = [encode_image(image, manifest.recipe.image) for image in pixels]
                        latents = bytes(dataset.read(index, "latents.npy"))
                        writer.add(label=group.label, images=images, views=list(group.views), latents=latents)
                    environment = {**manifest.environments[0], "device": device}
                    writer.publish(environment=environment, seconds=1.0, stages={})
            finish_dataset(folder, num_groups=manifest.num_groups, shard_size=manifest.shard_size)
        return folder

    return make


def run(*options: object) -> Result:
    arguments = ["render", "--devices=cpu", "--quiet", *map(str, options)]
    return CliRunner().invoke(main, arguments, prog_name="synthgen")


def test_the_manifest_alone_gives_the_same_bytes(
    original: Path, copy_manifest: Callable[..., Path], tiny_weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    result = run(f"--from={copy_manifest()}", f"--out={out}", f"--weights={tiny_weights}")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}: L0 plan: same; L1 bytes: 3 of 3 tars identical to the manifest's\n"
    assert (out / "manifest.json").read_bytes() == (original / "manifest.json").read_bytes()
    for path in original.glob("data/*.tar"):
        assert (out / "data" / path.name).read_bytes() == path.read_bytes()


def test_from_python_with_the_folder_in_place_of_the_file(
    original: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = synthgen.render(manifest=original, out=tmp_path / "again", weights=tiny_weights, devices="cpu")
    assert manifest == load_manifest(original)
    assert capsys.readouterr().err.endswith("L1 bytes: 3 of 3 tars identical to the manifest's\n")
    estimate = synthgen.render(manifest=original, out=tmp_path / "x", weights=tiny_weights, devices="cpu", dry_run=True)
    assert (estimate.num_groups, estimate.batch_size, estimate.dtype) == (70, 20, "float32")
    assert not (tmp_path / "x").exists()


def test_lost_shards_come_back_in_place(original: Path, tiny_weights: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "d"))
    for path in folder.glob("data/train-000001.*"):
        path.unlink()
    assert not verify(folder).ok
    result = run(f"--from={folder}", f"--out={folder}", f"--weights={tiny_weights}")
    assert "3 of 3 tars identical" in result.stdout, result.output
    assert verify(folder).ok
    assert (folder / "manifest.json").read_bytes() == (original / "manifest.json").read_bytes()


def test_another_device_is_named_and_its_pixels_are_compared(
    elsewhere: Callable[[int, str], Path], tiny_weights: Path, tmp_path: Path
) -> None:
    theirs = elsewhere(1, "Abacus 3000")
    result = run(f"--from={theirs}", f"--out={tmp_path / 'again'}", f"--weights={tiny_weights}")
    assert result.exit_code == 0, result.output
    assert "L1 bytes: 0 of 3 tars identical (device: Abacus 3000 in the manifest, cpu here)" in result.stdout
    assert "L0 plan: same; L1 bytes: identical in 0 of 70 groups" in result.stdout
    assert "L2 pixels: mean " in result.stdout and ": close, within 4\n" in result.stdout
    # Their manifest without a shard, or any: the reason is there, the pixels are not.
    for remove in (lambda: (theirs / "data/train-000001.tar").unlink(), lambda: shutil.rmtree(theirs / "data")):
        remove()
        result = run(f"--from={theirs}", f"--out={tmp_path / 'again'}", f"--weights={tiny_weights}")
        assert result.exit_code == 0
        assert "L0 plan: same recipe" in result.stdout and "Abacus 3000" in result.stdout
        assert "not compared, the original shards are not here" in result.stdout


def test_any_two_environments_may_explain_other_bytes(original: Path) -> None:
    one = load_manifest(original)
    (here,) = one.environments
    two = replace(one, environments=(here, {**here, "device": "Abacus 3000"}))
    assert _environment_difference(two, one) == "device: Abacus 3000 in the manifest, cpu here"
    assert _environment_difference(one, two) == "device: cpu in the manifest, Abacus 3000 here"
    assert _environment_difference(one, one) is None
    assert _environment_difference(replace(one, environments=()), one) == (
        "the manifest does not say where it was rendered"
    )


@pytest.mark.parametrize(
    ("step", "device", "words"), [(30, "Abacus 3000", "NOT CLOSE, beyond 4"), (1, "cpu", "in the same environment")]
)
def test_what_no_environment_explains_is_damage(
    elsewhere: Callable[[int, str], Path], tiny_weights: Path, tmp_path: Path, step: int, device: str, words: str
) -> None:
    theirs, out = elsewhere(step, device), tmp_path / "again"
    result = run(f"--from={theirs}", f"--out={out}", f"--weights={tiny_weights}")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and words in result.stderr, result.stderr
    assert f"{out} is not what {theirs / 'manifest.json'} describes" in result.stderr
    assert verify(out).ok, "our files are whole all the same"
    with pytest.raises(DamageError, match=words):
        synthgen.render(manifest=theirs, out=out, weights=tiny_weights, devices="cpu", quiet=True)


@pytest.mark.parametrize("name", DECIDED)
def test_what_the_manifest_decides_cannot_be_said_beside_it(original: Path, tmp_path: Path, name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    arguments = [option] if DECIDED[name] is True else [f"{option}={DECIDED[name]}"]
    result = run(f"--from={original}", f"--out={tmp_path / 'd'}", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {option} is decided by the manifest: ") and result.stderr.count("\n") == 1
    n = DECIDED["n"] if name == "n" else None
    options = {} if name == "n" else {name: DECIDED[name]}
    with pytest.raises(ValueError, match=f"^{option} is decided by the manifest"):
        synthgen.render(n=n, manifest=original, out=tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_every_option_is_either_free_or_decided() -> None:
    names = set(RenderConfig.__dataclass_fields__) | {"dry_run", "quiet"}
    assert names == FREE_OPTIONS | set(DECIDED)


def test_mistakes_are_one_line(
    original: Path, copy_manifest: Callable[..., Path], tiny_weights: Path, tmp_path: Path
) -> None:
    def refused(*options: object, words: str, exit_code: int = 2) -> None:
        result = run(f"--weights={tiny_weights}", *options)
        assert result.exit_code == exit_code, result.output
        assert words in result.stderr and result.stderr.count("\n") == 1, result.stderr

    out = f"--out={tmp_path / 'd'}"
    refused(out, words="no n: give --n, how many groups, or a manifest that says it (--from)")
    refused(out, "--from=nowhere.json", words="nowhere.json: there is no such file; give a manifest.json")
    refused(out, f"--from={tmp_path}", words="give a manifest.json, or the folder that holds it")
    refused(out, f"--from={copy_manifest(recipe_id='0' * 64)}", words="recipe was altered", exit_code=1)
    photographs = json.loads((original / "manifest.json").read_text())["recipe"]
    photographs["source"] = {"collection": "cifar10"}
    from shards.recipe import Recipe

    of_photographs = copy_manifest(recipe=photographs, recipe_id=Recipe.from_json(photographs).id)
    refused(out, f"--from={of_photographs}", words="no generator made these images (collection cifar10)")
    without_policy = json.loads((original / "manifest.json").read_text())["recipe"] | {"views": [{}]}
    nameless = copy_manifest(recipe=without_policy, recipe_id=Recipe.from_json(without_policy).id)
    refused(out, f"--from={nameless}", words="names no policy")
    assert not (tmp_path / "d").exists()
    synthgen.render(n=20, out=tmp_path / "d", weights=tiny_weights, devices="cpu", quiet=True)
    refused(out, f"--from={original}", words="holds 20 groups")


def test_other_weights_are_refused_by_name(
    original: Path, network_maker: Callable, package_layout: Callable, tmp_path: Path
) -> None:
    package_layout(tmp_path / "weights", network_maker(seed=1))
    result = run(f"--from={original}", f"--out={tmp_path / 'd'}", f"--weights={tmp_path / 'weights'}")
    assert result.exit_code == 2
    assert "weights_sha256: the dataset was rendered with the weights" in result.stderr
    assert "give --weights the folder" in result.stderr and not (tmp_path / "d").exists()


def test_a_manifest_in_pieces_is_to_be_fetched_anew(tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text("{")
    result = run(f"--from={tmp_path / 'theirs.json'}", f"--out={tmp_path / 'd'}")
    assert result.exit_code == 1 and not (tmp_path / "d").exists()
    assert "theirs.json: it is not JSON" in result.stderr and "get the file anew from where it came" in result.stderr


def test_another_configuration_is_refused_by_name(original: Path, tiny_weights: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    path = weights / "biggan-deep-32.json"
    path.write_text(path.read_text().replace('"eps": 0.0001', '"eps": 0.01'))
    result = run(f"--from={original}", f"--out={tmp_path / 'd'}", f"--weights={weights}")
    assert result.exit_code == 2 and not (tmp_path / "d").exists()
    assert "config_sha256: the dataset was rendered with another configuration of biggan-deep-32" in result.stderr


def test_a_manifest_alone_makes_no_function_run(
    write_module: Callable[[str, str], None], documented_block: Callable[[str], str], tmp_path: Path
) -> None:
    """A stranger's manifest may name any function that is here: the user has to name it, too."""
    write_module("their_generator", documented_block("class Generator:") + "\nprint('their code ran')\n")
    torch.manual_seed(0)
    layers = {"0": torch.nn.Linear(64, 8192), "3": torch.nn.ConvTranspose2d(128, 64, 4, 2, 1)}
    layers["5"] = torch.nn.ConvTranspose2d(64, 3, 4, 2, 1)
    state = {f"{name}.{key}": t for name, layer in layers.items() for key, t in layer.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    name, weights = "--generator=their_generator:make", "--weights=weights.safetensors"
    assert run("--n=20", "--out=d", name, weights).exit_code == 0
    sys.modules.pop("their_generator")

    verify = CliRunner().invoke(main, ["verify-render", "d", weights, "--device=cpu", "--quiet"])
    for result in (run("--from=d", "--out=again", weights), verify):
        assert result.exit_code == 2, result.output
        assert "their_generator:make made these images: if you trust that function" in result.stderr
        assert "their code ran" not in result.output and "their_generator" not in sys.modules
    assert not (tmp_path / "again").exists()

    other = run("--from=d", "--out=again", weights, "--generator=biggan-deep-128")
    assert other.exit_code == 2 and "made these images, not biggan-deep-128" in other.stderr
    trusted = run("--from=d", "--out=again", weights, name)
    assert trusted.exit_code == 0 and "L1 bytes: 1 of 1 tars identical" in trusted.stdout, trusted.output
    verify = CliRunner().invoke(main, ["verify-render", "d", weights, name, "--device=cpu", "--quiet"])
    assert verify.exit_code == 0, verify.output
