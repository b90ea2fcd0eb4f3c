"""Datasets of every policy: rendered, verified, read, planned again from recipe and file; and sheets of the choices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import shards
import synthgen
from shards.dataset import GroupDataset
from shards.manifest import load_manifest
from shards.sheet import _describe
from shards.verification import verify
from synthgen.cli import main
from synthgen.plan import draw_groups
from synthgen.vectors import VectorFiles


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="synthgen")


@pytest.fixture(scope="module")
def files(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Walks and directions of the tiny generator, made by the commands."""
    folder = tmp_path_factory.mktemp("files")
    made = {"walks": folder / "walks.safetensors", "directions": folder / "directions.safetensors"}
    model = (f"--weights={tiny_weights}", "--device=cpu", "--quiet")
    result = run("steer", "train", f"--out={made['walks']}", "--edit=zoom,rotate", "--steps=2", *model)
    assert result.exit_code == 0 and "zoom " in result.stdout and "wrote" in result.stdout, result.output
    result = run("directions", f"--out={made['directions']}", "--k=3", *model)
    assert result.exit_code == 0 and "3 directions with" in result.stdout, result.output
    return made


CASES = {
    "ball": ["--views=ball", "--radius=0.5"],
    "angular": ["--views=angular", "--degrees=30"],
    "steer": ["--views=steer", "--walks={walks}", "--edits=zoom", "--strength=0.7"],
    "directions": ["--views=directions", "--directions={directions}", "--std=1.5"],
    "mixture": [
        "--views=mixture:gaussian:std=0.3@0.4+steer@0.3+directions:std=2@0.3",
        "--walks={walks}",
        "--directions={directions}",
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_a_dataset_of_every_policy(name: str, files: dict[str, Path], tiny_weights: Path, tmp_path: Path) -> None:
    options = [option.format(**files) for option in CASES[name]]
    standard = [f"--weights={tiny_weights}", "--devices=cpu", "--batch-size=10", "--shard-size=20", "--num-views=2"]
    result = run("render", "--n=30", f"--out={tmp_path / 'd'}", *standard, *options, "--quiet")
    assert result.exit_code == 0, result.output
    assert verify(tmp_path / "d").ok

    # The plan again, from the manifest and the files alone: what a second party has.
    recipe = load_manifest(tmp_path / "d").recipe
    draws = draw_groups(recipe, latent_dim=16, first=0, count=30, vectors=VectorFiles(paths=tuple(files.values())))
    dataset = GroupDataset(tmp_path / "d")
    for index in (0, 13, 29):
        assert list(dataset[index].views) == [parameters[index] for parameters in draws.parameters]
    part = draw_groups(recipe, latent_dim=16, first=7, count=9, vectors=VectorFiles(paths=tuple(files.values())))
    np.testing.assert_array_equal(part.latents, draws.latents[:, 7:16])
    assert (draws.latents[1] != draws.latents[2]).any(axis=1).all(), "the views of a group differ"

    result = run("render", "--n=10", f"--out={tmp_path / 'prefix'}", *standard, *options, "--quiet", "--dry-run")
    assert result.exit_code == 0 and f"recipe        {recipe.id}" in result.stdout


def test_mixtures_are_described_for_people(tiny_weights: Path, tmp_path: Path) -> None:
    views = "mixture:gaussian:std=0.2@0.5+independent@0.5"
    synthgen.render(n=10, out=tmp_path / "d", views=views, weights=tiny_weights, devices="cpu", quiet=True)
    said = dict(shards.info(tmp_path / "d").rows())["view 0"]
    assert said == "components (policy gaussian, std 0.2) + (policy independent), policy mixture, weights [0.5,0.5]"
    recipe = load_manifest(tmp_path / "d").recipe
    assert _describe(recipe.views[0]) == "mixture of gaussian, independent"
    assert _describe({"policy": "steer", "walks_sha256": "ab", "edits": ["zoom", "rotate"], "strength": 1.0}) == (
        "steer, edits zoom, rotate, strength 1"
    )


def test_another_file_is_another_recipe(files: dict[str, Path], tiny_weights: Path, tmp_path: Path) -> None:
    standard = ["--n=10", f"--out={tmp_path / 'd'}", f"--weights={tiny_weights}", "--devices=cpu", "--quiet"]
    steer = ["--views=steer", f"--walks={files['walks']}"]
    assert run("render", *standard, *steer).exit_code == 0
    other = tmp_path / "other.safetensors"
    synthgen.steer.train(out=other, edit="zoom,rotate", steps=1, weights=tiny_weights, device="cpu")
    result = run("render", *standard, "--views=steer", f"--walks={other}")
    assert result.exit_code == 2 and "views.0.walks_sha256:" in result.stderr
    recipe = load_manifest(tmp_path / "d").recipe
    with pytest.raises(ValueError, match=r"need the walks file with sha256"):
        draw_groups(recipe, latent_dim=16, first=0, count=1)


def test_vectors_of_another_generator_are_refused_before_anything_is_written(
    files: dict[str, Path], tmp_path: Path
) -> None:
    result = run("render", "--n=10", f"--out={tmp_path / 'd'}", "--views=steer", f"--walks={files['walks']}")
    assert result.exit_code == 2 and "belong to biggan-deep-32 with weights" in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "d").exists()


def test_hugging_face_makes_one_table_of_a_mixture(files: dict[str, Path], tiny_weights: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    synthgen.render(
        n=40,
        out=tmp_path / "d",
        views="mixture:directions@0.5+angular@0.5",
        directions=files["directions"],
        weights=tiny_weights,
        devices="cpu",
        quiet=True,
    )
    table = datasets.load_dataset(
        "webdataset",
        data_files=str(tmp_path / "d/data/*.tar"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    views = [row["views"][0] for row in table["json"]]
    assert {view["drawn"] for view in views} == {"directions", "angular"}
    assert all(len(view["steps"]) == 3 for view in views)


# ---------------------------------------------------------------------------------------------------------------------
# Sheets


def test_sheet_of_views(files: dict[str, Path], tiny_weights: Path, tmp_path: Path) -> None:
    model = (f"--weights={tiny_weights}", "--device=cpu", "--samples=2")
    result = run(
        *("views", "show", "--policy=gaussian,independent,steer", "--std=0.1,0.4", "--strength=1", *model),
        *(f"--walks={files['walks']}", f"--out={tmp_path / 'a.png'}"),
    )
    assert result.exit_code == 0 and result.stdout == f"wrote {tmp_path / 'a.png'}\n", result.output
    synthgen.views.show(
        policy="mixture:gaussian@1+independent@1",
        samples=2,
        weights=tiny_weights,
        device="cpu",
        out=tmp_path / "b.png",
    )
    with Image.open(tmp_path / "a.png") as wide, Image.open(tmp_path / "b.png") as narrow:
        assert wide.height == narrow.height and wide.width - narrow.width == 3 * (4 * 32 + 6) + 2 * 8


def test_sheet_shows_the_views_that_a_dataset_would_have(tiny_weights: Path, tmp_path: Path) -> None:
    model = {"weights": tiny_weights, "seed": 3, "truncation": 0.7}
    synthgen.views.show(policy="angular", degrees=40, samples=1, out=tmp_path / "a.png", device="cpu", **model)
    synthgen.render(
        n=1, out=tmp_path / "d", views="angular", degrees=40, format="png", devices="cpu", quiet=True, **model
    )
    pixels = GroupDataset(tmp_path / "d").images(0)
    with Image.open(tmp_path / "a.png") as file:
        sheet = np.asarray(file)
    for image in pixels:
        large = np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BICUBIC))
        windows = np.lib.stride_tricks.sliding_window_view(sheet, (128, 128, 3))[120, :, 0]
        assert np.abs(windows.astype(int) - large.astype(int)).reshape(len(windows), -1).mean(axis=1).min() < 1.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--policy=spiral"], "no view policy 'spiral'"),
        (["--policy=gaussian", "--radius=0.1"], "none of the policies has radius: omit --radius"),
        (["--policy=gaussian", "--walks=w.safetensors"], "none of the policies has walks"),
        (["--std=0.1,wide"], "std 0.1,wide: give numbers such as 0.1,0.2,0.5"),
        (["--std=-1"], "std -1.0"),
        (["--samples=0"], "samples 0: give a whole number from 1 to 100"),
        (["--out=sheet.jpg"], "ends in .png"),
        (["--policy=directions"], "'directions' needs directions: give --directions"),
        (["--classes=99"], "no class 99"),
        (["--policy=mixture:gaussian@1+steer@1", "--edits=zoom"], "mixture: write edits beside its policy"),
        (["--policy=mixture:gaussian@1+ball@1", "--std=0.1"], "none of the policies has std"),
    ],
)
def test_wrong_sheets_are_one_line(tiny_weights: Path, tmp_path: Path, options: list[str], words: str) -> None:
    result = run("views", "show", f"--out={tmp_path / 's.png'}", f"--weights={tiny_weights}", "--device=cpu", *options)
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
    assert list(tmp_path.iterdir()) == []


def test_stored_parameters_are_plain_json(files: dict[str, Path], tiny_weights: Path, tmp_path: Path) -> None:
    synthgen.render(
        n=2, out=tmp_path / "d", views="steer", walks=files["walks"], weights=tiny_weights, devices="cpu", quiet=True
    )
    view = json.loads(bytes(GroupDataset(tmp_path / "d").read(1, "json")))["views"][0]
    assert set(view) == {"policy", "zoom", "rotate"} and all(-1 <= view[edit] <= 1 for edit in ("zoom", "rotate"))
