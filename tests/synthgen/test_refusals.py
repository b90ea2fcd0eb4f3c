"""Wrong input at the command line: one line that names the fix, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import synthgen.job
import synthgen.runners.local
from shards.manifest import load_manifest
from synthgen.cli import main

Run = Callable[..., Result]


@pytest.fixture
def run(tiny_weights: Path, tmp_path: Path) -> Run:
    """`synthgen render` into tmp_path/d with the tiny generator; later options win."""

    def invoke(*options: str) -> Result:
        standard = ["--n=40", f"--out={tmp_path / 'd'}", f"--weights={tiny_weights}", "--devices=cpu", "--quiet"]
        return CliRunner().invoke(main, ["render", *standard, "--dtype=float32", *options], prog_name="synthgen")

    return invoke


def refused(result: Result, *words: str, exit_code: int = 2) -> None:
    """One line on stderr with all the words, the exit code, and no traceback."""
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and result.stdout == "", result.output
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--generator=stylegan9"], ["no generator 'stylegan9'", "biggan-deep-32"]),
        (["--views=spiral"], ["no view policy 'spiral'", "gaussian, independent"]),
        (["--n=0"], ["'0'", "from 1"]),
        (["--n=1.3Q"], ["'1.3Q' is not a count", "1.3M"]),
        (["--n=-5"], ["'-5' is not a count"]),
        (["--std=-0.1"], ["std -0.1", "from 0 to 100"]),
        (["--std=nan"], ["std nan"]),
        (["--views=independent", "--std=0.3"], ["'independent' has no std", "--std"]),
        (["--truncation=0"], ["truncation 0.0", "above 0 and at most 1"]),
        (["--truncation=1.5"], ["truncation 1.5", "above 0 and at most 1"]),
        (["--truncation=nan"], ["truncation nan"]),
        (["--num-views=65"], ["num-views 65", "from 0 to 64"]),
        (["--num-views=0", "--std=0.5"], ["num-views 0: there are no views to make; omit --std"]),
        (["--classes=0,99"], ["no class 99", "0 to 9"]),
        (["--classes=cats.txt"], ["cats.txt", "existing file"]),
        (["--seed=-1"], ["seed -1"]),
        (["--size=0"], ["size 0"]),
        (["--format=webp"], ["--format", "'webp' is not one of 'jpg', 'png'"]),
        (["--quality=101"], ["quality 101", "to 100"]),
        (["--format=png", "--quality=90"], ["quality belongs to jpg"]),
        (["--batch-size=0"], ["batch-size 0"]),
        (["--shard-size=0"], ["'0'"]),
        (["--devices=cuda:7"], ["cuda:7", "--devices auto or cpu"]),
        (["--devices=abacus"], ["devices 'abacus'", "auto, cpu, cuda"]),
        (["--dtype=int4"], ["--dtype", "'int4' is not one of", "bfloat16"]),
        (["--weights=/no/such/folder"], ["no weights of biggan-deep-32 in /no/such/folder", "put biggan-deep-32"]),
        (["--colour=red"], ["--colour", "synthgen render --help"]),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["", "dry"])
def test_wrong_options(run: Run, tmp_path: Path, options: list[str], words: list[str], dry: list[str]) -> None:
    refused(run(*options, *dry), *words)
    assert not (tmp_path / "d").exists()


def test_what_is_missing_is_named() -> None:
    refused(CliRunner().invoke(main, ["render", "--n=4"], prog_name="synthgen"), "--out", "synthgen render --help")
    refused(CliRunner().invoke(main, ["paint"], prog_name="synthgen"), "paint", "synthgen --help")


def test_corrupt_weights(run: Run, tiny_weights: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    file = weights / "biggan-deep-32.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    refused(run(f"--weights={weights}"), f"{file} is corrupt", "put the original file back")
    assert not (tmp_path / "d").exists()


def test_a_folder_of_other_things(run: Run, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("do not touch")
    refused(run(), "thesis.tex", "choose an empty or new folder")
    refused(run("--dry-run"), "thesis.tex")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["thesis.tex"]
    (tmp_path / "d" / ".lock").write_text("")  # as the folder of a training run has one
    refused(run(), "thesis.tex", "choose an empty or new folder")
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [".lock", "thesis.tex"]
    (tmp_path / "d" / "thesis.tex").unlink()
    (tmp_path / "d" / "data").mkdir()
    assert run().exit_code == 0, "what a render leaves that was killed at once"
    (tmp_path / "file").write_text("")
    refused(run(f"--out={tmp_path / 'file'}"), "is a file", "choose a folder")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--truncation=0.5"], "source.truncation: 1.0 in the folder, 0.5 asked for"),
        (["--std=0.5"], "views.0.std: 0.3 in the folder, 0.5 asked for"),
        (["--views=independent"], "views.0.policy: gaussian in the folder, independent asked for"),
        (["--num-views=2"], "views: "),
        (["--seed=1"], "seed: 0 in the folder, 1 asked for"),
        (["--classes=0,1"], "classes: "),
        (["--size=16"], "image.size: 32 in the folder, 16 asked for"),
        (["--format=png"], "image.format: jpg in the folder, png asked for"),
        (["--store-latents"], "store_latents: False in the folder, True asked for"),
        (["--batch-size=10"], "render.batch_size: 50 in the folder, 10 asked for"),
        (["--dtype=bfloat16"], "render.dtype: float32 in the folder, bfloat16 asked for"),
        (["--shard-size=20"], "shard_size: 1000 in the folder, 20 asked for"),
    ],
)
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "killed"])
def test_a_folder_of_another_dataset(
    run: Run, tmp_path: Path, rendered_folder: Path, options: list[str], field: str, finished: bool
) -> None:
    folder = Path(shutil.copytree(rendered_folder, tmp_path / "d"))
    if not finished:
        (folder / "manifest.json").unlink()
        field = field.replace("1000 in the folder", "40 in the folder")  # all that the only marker tells
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    refused(run(*options), f"{folder} holds another dataset", field)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"} == before


@pytest.fixture(scope="module")
def rendered_folder(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset of 40 groups; to be copied."""
    folder = tmp_path_factory.mktemp("rendered") / "d"
    synthgen.render(n=40, out=folder, weights=tiny_weights, devices="cpu", dtype="float32", quiet=True)
    return folder


def test_other_weights_under_the_same_name(
    run: Run, rendered_folder: Path, network_maker: Callable, package_layout: Callable, tmp_path: Path
) -> None:
    shutil.copytree(rendered_folder, tmp_path / "d")
    package_layout(tmp_path / "weights", network_maker(seed=1))
    refused(run(f"--weights={tmp_path / 'weights'}"), "source.weights_sha256:")


def test_fewer_groups_than_an_unfinished_render_holds(run: Run, rendered_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(rendered_folder, tmp_path / "d"))
    (folder / "manifest.json").unlink()
    refused(run("--n=10"), "holds 40 groups of an unfinished larger render", "--n 40")
    assert run("--n=40").exit_code == 0


def test_a_damaged_manifest_is_exit_code_one(run: Run, rendered_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(rendered_folder, tmp_path / "d"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["seed"] = 9
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(run(), "manifest.json", "altered", exit_code=1)


@pytest.mark.parametrize(
    ("index", "wrong"), [(1, ('"first":10', '"first":11')), (0, ('"batch_size":50', '"batch_size":51'))]
)
def test_a_damaged_marker_of_an_unfinished_render_is_named(
    run: Run, tmp_path: Path, index: int, wrong: tuple[str, str]
) -> None:
    assert run("--shard-size=10").exit_code == 0
    (tmp_path / "d/manifest.json").unlink()
    path = tmp_path / f"d/data/train-00000{index}.done.json"
    assert wrong[0] in path.read_text()
    path.write_text(path.read_text().replace(*wrong))
    refused(run(), f"{path} is damaged or of another dataset", "rm ", "run the same synthgen render again", exit_code=1)
    for file in (tmp_path / "d/data").glob(f"train-00000{index}.*"):
        file.unlink()
    assert run().exit_code == 0 and len(load_manifest(tmp_path / "d").shards) == 4


def test_a_disk_that_is_too_small_is_seen_before_the_first_group(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(synthgen.disk_room.shutil, "disk_usage", lambda path: usage)
    refused(run(), "40 groups need about", "has 1.0 kB left", "--out")
    assert not list(tmp_path.glob("d/data/*"))


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Sets the size at which writing a file fails, as a full disk makes it fail; lifted afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up(run: Run, tmp_path: Path, file_size_limit: Callable[[int], None]) -> None:
    """Nothing half written remains; with room again, the same command ends in a whole dataset."""
    file_size_limit(100_000)
    result = run("--n=200", "--shard-size=100")
    file_size_limit(resource.RLIM_INFINITY)
    refused(result, "train-000000.tar: ", "run the same command again: it resumes")
    assert list((tmp_path / "d" / "data").iterdir()) == []
    assert run("--n=200", "--shard-size=100").exit_code == 0
    assert load_manifest(tmp_path / "d").num_groups == 200


@pytest.mark.parametrize(("place", "word"), [("/sys/synthgen", "choose a place"), ("/proc/synthgen", "check the path")])
def test_a_folder_that_cannot_be_made(run: Run, place: str, word: str) -> None:
    """Not even by root."""
    refused(run(f"--out={place}"), place, word)


def test_ctrl_c_leaves_whole_shards_and_says_how_to_go_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        advances = iter(range(100))

        def interrupt(*args: object, **fields: object) -> None:
            if next(advances) == 3:
                raise KeyboardInterrupt

        patch.setattr(synthgen.runners.local.Progress, "advance", interrupt)
        options = ("--n=400", "--shard-size=40", "--batch-size=20")
        refused(run(*options), "run the same command again", exit_code=130)
    left = {path.name for path in (tmp_path / "d" / "data").iterdir()}
    assert {"train-000000.tar", "train-000000.done.json"} <= left
    assert not [name for name in left if name.startswith(".")]
    assert run(*options).exit_code == 0
    assert load_manifest(tmp_path / "d").num_groups == 400
