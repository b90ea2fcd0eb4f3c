"""Runs side by side: what differs is shown, what was scored stands under the right head, and files say the same."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

import contrast
from contrast.cli import main
from contrast.comparison import ABSENT, compare
from contrast.config import TrainConfig
from contrast.curves import draw_comparison
from contrast.evaluation.scoring import evaluate_run
from contrast.run_options import RunOptions
from contrast.training import train_encoder


@pytest.fixture(scope="module")
def runs(
    groups: Path, make_groups: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """simclr and supcon, scored; and a shorter one that was not scored."""
    folder = tmp_path_factory.mktemp("runs")
    labelled = make_groups(num_groups=120, seed=9)
    config = TrainConfig(steps=6, batch_size=16, head_hidden_dim=32, head_dim=16)
    changes = {"a": {}, "b": {"objective": "supcon", "seed": 3}, "<c>": {"steps": 4}}
    for name, change in changes.items():
        knn = {"knn_every": 2, "knn_data": str(labelled)} if name != "<c>" else {}
        options = RunOptions(device="cpu", quiet=True, log_every=2, **knn)
        train_encoder(dataclasses.replace(config, **change), shards=groups, out=folder / name, options=options)
    evaluate_run(folder / "a", data=str(labelled), scores=("knn",), k=(1, 5), device="cpu", quiet=True)
    evaluate_run(folder / "b", data=str(labelled), scores=("knn", "rankme"), k=5, device="cpu", quiet=True)
    return folder / "a", folder / "b", folder / "<c>"


def test_the_table_has_what_differs_and_the_scores_under_their_heads(runs: tuple[Path, Path, Path]) -> None:
    comparison = compare(runs)
    assert comparison.differing == ("steps", "objective", "seed")
    heads, rows = comparison.table()
    assert heads == ["run", "steps", "objective", "seed", "steps done", "loss", "kNN 1", "kNN 5", "RankMe"]
    a, b, c = rows
    assert a[:5] == ["a", "6", "simclr", "0", "6"] and b[:5] == ["b", "6", "supcon", "3", "6"]
    scores = [json.loads((run / "evaluate.json").read_text())["tests"][0]["scores"]["trained"] for run in runs[:2]]
    assert a[6:] == [f"{scores[0]['knn_by_k']['1']:.1f}", f"{scores[0]['knn_by_k']['5']:.1f}", ABSENT]
    assert b[6:] == [ABSENT, f"{scores[1]['knn_by_k']['5']:.1f}", f"{scores[1]['rankme']:.1f}"]
    assert c[6:] == [ABSENT] * 3
    table, _, remarks = str(comparison).partition("\n\n")
    assert len({len(line) for line in table.splitlines()}) == 1  # every column is as wide in all lines
    assert remarks.splitlines() == comparison.remarks()


def test_scores_on_other_images_or_labels_are_other_columns(
    runs: tuple[Path, Path, Path], make_groups: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(runs[0], tmp_path / "a")
    evaluate_run(
        tmp_path / "a",
        data=str(make_groups(num_groups=100, seed=11)),
        num_train=50,
        scores=("knn",),
        k=5,
        device="cpu",
        quiet=True,
    )
    heads, rows = compare([tmp_path / "a", runs[1]]).table()
    knn = [position for position, head in enumerate(heads) if head.startswith("kNN 5 ")]
    assert [heads[position] for position in knn] == ["kNN 5 [1]", "kNN 5 [2]"]
    first, second = compare([tmp_path / "a", runs[1]]).remarks()[:2]
    assert first.startswith("[1] ") and "50 labels" in first and second.startswith("[2] ")
    assert rows[0][knn[1]] == rows[1][knn[0]] == ABSENT


def with_scores(
    run: Path, copy: Path, *, test: dict[str, Any] | None = None, groups: dict[str, Any] | None = None
) -> Path:
    """A copy of a scored run whose scores say other things of what they were taken on."""
    shutil.copytree(run, copy)
    scores = json.loads((run / "evaluate.json").read_text())
    scores["tests"][0] |= test or {}
    scores["groups"] = groups
    (copy / "evaluate.json").write_text(json.dumps(scores))
    return copy


def test_labels_of_another_source_make_another_column(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    same = with_scores(runs[0], tmp_path / "same")
    other = with_scores(runs[0], tmp_path / "other", test={"trained_with": "photos train, 96 labels"})
    heads, rows = compare([same, other]).table()
    sources = [line for line in compare([same, other]).remarks() if line.startswith("[")]
    for source, name in zip(sources, (labels_of(runs[0]), "photos train, 96 labels"), strict=True):
        assert source.endswith(f", labels from {name}")  # in what else they do not differ
    columns = [heads.index(f"kNN 5 [{number}]") for number in (1, 2)]
    assert rows[0][columns[1]] == rows[1][columns[0]] == ABSENT
    assert ABSENT not in (rows[0][columns[0]], rows[1][columns[1]])
    remarks = [line for line in compare([same, other]).remarks() if line.startswith("Tested on")]
    assert len(remarks) == 2 and "labels from photos train, 96 labels" in remarks[1]
    alike, _ = compare([runs[0], same]).table()
    assert "kNN 5" in alike and not any(line.startswith("[") for line in compare([runs[0], same]).remarks())


def labels_of(run: Path) -> str:
    return json.loads((run / "evaluate.json").read_text())["tests"][0]["trained_with"]


def test_other_images_under_the_same_words_are_another_column(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = with_scores(runs[0], tmp_path / "other", test={"content_sha256": "ab" * 32})
    heads, rows = compare([runs[0], other]).table()
    columns = [position for position, head in enumerate(heads) if head.startswith("kNN 5 ")]
    assert len(columns) == 2 and compare([runs[0], other]).remarks()[1].endswith("images abababababab")
    assert rows[0][columns[1]] == rows[1][columns[0]] == ABSENT


@pytest.mark.parametrize("change", [{"first": 40}, {"num_groups": 20}, {"num_images": 3}, {"recipe_id": "cd" * 32}])
def test_other_groups_of_one_dataset_are_another_column(
    runs: tuple[Path, Path, Path], tmp_path: Path, change: dict[str, int]
) -> None:
    groups = {"dataset": "d", "recipe_id": "0" * 64, "first": 0, "num_groups": 30, "num_images": 2, "notes": []}
    groups["scores"] = {"trained": {"lidar": 5.0}}
    a, b, c = (
        with_scores(runs[0], tmp_path / name, groups=groups | changed)
        for name, changed in (("a", {}), ("b", {}), ("c", change))
    )
    assert sum("LiDAR" in head for head in compare([a, b]).table()[0]) == 1
    assert "[2] groups of d" in compare([a, b]).remarks()
    heads, rows = compare([a, c]).table()
    lidar = [position for position, head in enumerate(heads) if head.startswith("LiDAR [")]
    assert len(lidar) == 2 and len({*compare([a, c]).remarks()[1:3]}) == 2
    assert [[row[position] for position in lidar] for row in rows] == [["5.0", ABSENT], [ABSENT, "5.0"]]


def test_alignment_by_different_augmentations_is_no_comparison(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    groups = {"dataset": "d", "recipe_id": "0" * 64, "first": 0, "num_groups": 30, "num_images": 2, "notes": []}
    groups["scores"] = {"trained": {"alignment": {"tx": 0.1, "tz": 0.2}}}
    a, b = (with_scores(runs[0], tmp_path / name, groups=groups) for name in ("a", "b"))
    assert not any("Alignment tx" in line for line in compare([a, b]).remarks())
    record = json.loads((b / "config.json").read_text())
    record["config"]["augment"]["jitter"] = 0.5
    (b / "config.json").write_text(json.dumps(record))
    expected = "Alignment tx is by each run's own augmentation, which differs here (augment.jitter): "
    assert any(line.startswith(expected) for line in compare([a, b]).remarks())
    assert not any(line.startswith(expected) for line in compare([runs[0], b]).remarks())  # only one has it


def test_every_note_stands_under_the_table_with_its_runs(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    groups = {
        "dataset": "d",
        "recipe_id": "0" * 64,
        "first": 0,
        "num_groups": 30,
        "num_images": 2,
        "scores": {"trained": {"lidar": 5.0}},
    }
    seen = "the encoder was trained on 20 of these 30 groups"
    unfinished = "the run is not finished: step 4 of 6"
    a = with_scores(
        runs[0], tmp_path / "one", test={"notes": [unfinished]}, groups={**groups, "notes": [seen, unfinished]}
    )
    b = with_scores(runs[0], tmp_path / "two", test={"notes": [unfinished]}, groups={**groups, "notes": []})
    c = with_scores(runs[0], tmp_path / "three", test={"notes": []})
    data = json.loads((a / "evaluate.json").read_text())["tests"][0]["data"]
    expected = [f"one: {unfinished}", f"one: {seen} (groups of d)", f"two: {unfinished} ({data})"]
    comparison = contrast.compare([a, b, c], out=tmp_path / "page.html")
    contrast.compare([a, b, c], out=tmp_path / "table.md")
    assert [line for line in comparison.remarks() if not line.startswith(("Tested on", "["))] == expected
    for line in expected:
        assert f"<p>{line}</p>" in (tmp_path / "page.html").read_text()
        assert f"\n\n{line}\n" in (tmp_path / "table.md").read_text()
        assert line in str(comparison).splitlines()
    shared = with_scores(runs[0], tmp_path / "four", test={"notes": [unfinished]})
    again = with_scores(runs[0], tmp_path / "five", test={"notes": [unfinished]})
    assert f"four, five: {unfinished}" in compare([shared, again]).remarks()
    assert not any(line.startswith("three") for line in comparison.remarks())


def test_curves_are_over_the_groups_seen(runs: tuple[Path, Path, Path]) -> None:
    loss, knn = draw_comparison(compare(runs)).axes
    curves = [line.get_xdata().tolist() for line in loss.lines if line.get_label() != "chance"]
    assert curves == [[32, 64, 96], [32, 64, 96], [32, 64]]
    (chance,) = [line.get_ydata() for line in loss.lines if line.get_label() == "chance"]
    assert chance == pytest.approx([math.log(31)] * 2)  # 16 groups of 2
    assert [line.get_label() for line in knn.lines] == ["a", "b"]  # the third was not scored while training
    assert loss.get_xlabel() == "groups seen" and "kNN" in knn.get_ylabel()
    assert loss.get_ylabel() == "loss of the run's objective"
    alike = draw_comparison(compare([runs[0], runs[2]])).axes[0]
    assert alike.get_ylabel() == "simclr loss"


def test_scores_of_a_step_in_mid_run_say_so(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "midway"
    shutil.copytree(runs[0], run)
    scores = json.loads((run / "evaluate.json").read_text())
    (run / "evaluate.json").write_text(json.dumps({**scores, "step": 4}))  # the run has gone on since
    comparison = compare([run, runs[1], runs[2]])
    heads, rows = comparison.table()
    column = heads.index("scored at step")
    assert [row[column] for row in rows] == ["4", "6", ABSENT]
    assert [row[heads.index("steps done")] for row in rows] == ["6", "6", "4"]
    contrast.compare([run, runs[1]], out=tmp_path / "page.html")
    assert "Not scored at the last step, as the column says: midway." in (tmp_path / "page.html").read_text()
    contrast.compare(runs, out=tmp_path / "page.html")
    assert "Not scored at the last step" not in (tmp_path / "page.html").read_text()


def test_files_by_their_names(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    comparison = contrast.compare(runs, out=tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    heads, _ = comparison.table()
    assert page.count("<svg") == 1 and all(f"<th>{head}</th>" in page for head in heads)
    assert "&lt;c&gt;" in page and "<c>" not in page
    contrast.compare(runs, out=tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| " + " | ".join(heads) + " |"
    assert sum(line.startswith("|") for line in lines) == 5 and lines[5] == ""
    contrast.compare(runs, out=tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > picture.size[1] > 300


def test_the_command(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    given = [str(run) for run in runs]
    result = CliRunner().invoke(main, ["compare", *given, "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0 and "supcon" in result.stdout and str(tmp_path / "page.html") in result.stdout
    found = json.loads(CliRunner().invoke(main, ["compare", *given, "--json"]).stdout)
    assert found["differing"] == ["steps", "objective", "seed"]
    assert found["runs"][1]["settings"]["objective"] == "supcon"
    assert found["runs"][0]["evaluation"]["tests"][0]["k"] == 1 and found["runs"][2]["evaluation"] is None
    assert found["runs"][2]["last"]["step"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}"], "give two runs or more to compare"),
        (["{a}", "{a}/../a"], "a run is given twice"),
        (["{a}", "{a}/.."], "is not a run (no config.json)"),
        (["{a}", "{b}", "--out", "x.pdf"], "--out x.pdf: give a file name that ends in .html, .md, .csv, .png"),
    ],
)
def test_wrong_requests_are_one_line(runs: tuple[Path, Path, Path], arguments: list[str], message: str) -> None:
    given = [argument.format(a=runs[0], b=runs[1]) for argument in arguments]
    result = CliRunner().invoke(main, ["compare", *given])
    assert result.exit_code == 2 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_runs_of_one_last_name_keep_their_paths(runs: tuple[Path, Path, Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "b")
    assert [run.name for run in compare([tmp_path / "b", runs[1]]).runs] == [str(tmp_path / "b"), str(runs[1])]


def test_a_run_that_one_is_in_has_its_folder_s_name(
    runs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs[0])
    assert [run.name for run in compare([".", "../b"]).runs] == ["a", "b"]
