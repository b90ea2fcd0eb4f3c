"""Seeds as one row, and scores over a setting: means and deviations are those of the runs, nothing else is mixed."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from contrast.averages import Spread
from contrast.cli import main
from contrast.comparison import ABSENT, Comparison, compare
from contrast.config import TrainConfig
from contrast.curves import draw_comparison
from contrast.evaluation.scoring import evaluate_run
from contrast.run_options import RunOptions
from contrast.training import train_encoder
from shards.recipe import Recipe

KNN = {  # by objective, groups and seed
    ("simclr", 8): {0: 40.0, 1: 42.5, 2: 41.0},
    ("simclr", 64): {0: 50.0, 1: 54.0},
    ("supcon", 64): {0: 60.25},
}


@pytest.fixture(scope="module")
def runs(
    groups: Path, make_groups: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int, int], Path]:
    """Copies of a scored run that say they were other runs, with the scores above."""
    folder = tmp_path_factory.mktemp("runs")
    config = TrainConfig(steps=2, batch_size=8, head_hidden_dim=32, head_dim=16)
    train_encoder(config, shards=groups, out=folder / "run", options=RunOptions(device="cpu", quiet=True))
    labelled = str(make_groups(num_groups=120, seed=9))
    evaluate_run(folder / "run", data=labelled, scores=("knn",), k=5, device="cpu", quiet=True)
    copies = {}
    for (objective, num_groups), scores in KNN.items():
        for seed, knn in scores.items():
            copy = copies[objective, num_groups, seed] = folder / f"{objective}-{num_groups}-{seed}"
            shutil.copytree(folder / "run", copy)
            record = json.loads((copy / "config.json").read_text())
            record["config"] |= {"objective": objective, "seed": seed}
            record["trained_on"]["num_groups"] = num_groups
            (copy / "config.json").write_text(json.dumps(record))
            evaluation = json.loads((copy / "evaluate.json").read_text())
            evaluation["tests"][0]["scores"] = {
                "pixels": {"knn": 31.0, "knn_by_k": {"5": 31.0}},
                "random": {"knn": 20.0 + seed, "knn_by_k": {"5": 20.0 + seed}},
                "trained": {"knn": knn, "knn_by_k": {"5": knn}},
            }
            (copy / "evaluate.json").write_text(json.dumps(evaluation))
    return copies


def test_the_deviation_is_that_of_a_sample() -> None:
    values = (40.0, 42.5, 41.0)
    spread = Spread(values=values, digits=1)
    assert (spread.mean, spread.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert spread.text == "41.2 ± 1.3" and Spread(values=(0.123,), digits=3).text == "0.123"


def test_runs_that_differ_in_their_seed_alone_are_one_row(runs: dict[tuple[str, int, int], Path]) -> None:
    comparison = compare(list(runs.values()), average=True)
    heads, rows = comparison.table()
    assert heads == ["objective", "num_groups", "runs", "kNN 5"]
    assert rows == [
        ["simclr", "8", "3", "41.2 ± 1.3"],
        ["simclr", "64", "2", "52.0 ± 2.8"],
        ["supcon", "64", "1", "60.2"],
    ]
    assert "Mean ± standard deviation (n - 1) of the runs that differ in their seed alone." in str(comparison)
    assert len(compare(list(runs.values())).table()[1]) == 6, "not unless asked for"


def test_a_run_without_scores_counts_as_a_run_and_in_no_mean(
    runs: dict[tuple[str, int, int], Path], tmp_path: Path
) -> None:
    shutil.copytree(runs["simclr", 64, 1], tmp_path / "unscored")
    (tmp_path / "unscored" / "evaluate.json").unlink()
    both = [runs["simclr", 64, 0], tmp_path / "unscored"]
    assert compare(both, average=True).table() == (["runs", "kNN 5"], [["2", "50.0"]])
    (tmp_path / "unscored" / "checkpoint.pt").unlink()
    alone = compare([tmp_path / "unscored", runs["supcon", 64, 0]], average=True)
    assert [row[-1] for row in alone.table()[1]] == [ABSENT, "60.2"]


def drawn(comparison: Comparison) -> dict[str, tuple[list[object], list[float], list[float]]]:
    """Label of every line to its places, means and deviations."""
    (axes,) = draw_comparison(comparison).axes
    found = {}
    for bars in axes.containers:
        line, _, (segments,) = bars.lines
        heights = [(end[1] - begin[1]) / 2 for begin, end in segments.get_segments()]
        found[bars.get_label()] = (list(line.get_xdata()), list(line.get_ydata()), heights)
    return found


def test_scores_are_drawn_over_a_setting(runs: dict[tuple[str, int, int], Path]) -> None:
    comparison = compare(list(runs.values())[::-1], over="num_groups")
    lines = drawn(comparison)
    assert set(lines) == {"objective simclr", "objective supcon"}
    places, means, deviations = lines["objective simclr"]
    assert places == [8, 64] and means == pytest.approx([np.mean([40, 42.5, 41]), 52])
    assert deviations == pytest.approx([np.std([40, 42.5, 41], ddof=1), np.std([50, 54], ddof=1)])
    assert lines["objective supcon"][2] == [0.0]
    (axes,) = draw_comparison(comparison).axes
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "num_groups", "kNN 5")
    levels = {line.get_label(): line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    assert levels["raw pixels"] == 31 and levels["untrained encoder"] == pytest.approx(
        np.mean([20, 21, 22, 20, 21, 20])
    )
    words = compare(list(runs.values()), over="objective")
    assert (drawn(words)["num_groups 64"][0], drawn(words)["num_groups 8"][0]) == ([0, 1], [0])
    (axes,) = draw_comparison(words).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["simclr", "supcon"]


def change(run: Path, copy: Path, **recipe: Any) -> Path:
    """A copy of a run that says that it learnt from another recipe."""
    shutil.copytree(run, copy)
    record = json.loads((copy / "config.json").read_text())
    record["trained_on"]["recipe"] |= recipe
    record["trained_on"]["recipe_id"] = Recipe.from_json(record["trained_on"]["recipe"]).id
    (copy / "config.json").write_text(json.dumps(record))
    return copy


def test_views_that_are_alike_are_one_setting_and_runs_without_it_are_not_drawn(
    runs: dict[tuple[str, int, int], Path], tmp_path: Path
) -> None:
    run = runs["simclr", 8, 0]
    stds = [change(run, tmp_path / f"std{std}", views=[{"policy": "gaussian", "std": std}] * 3) for std in (0.1, 0.3)]
    ball = change(run, tmp_path / "ball", views=[{"policy": "ball", "radius": 0.2}] * 3)
    none = change(run, tmp_path / "none", views=[])
    assert compare(stds).differing == ("trained_on.recipe.views.std",)
    comparison = compare([*stds, ball], over="std")
    assert drawn(comparison) == {"policy gaussian": ([0.1, 0.3], [40.0, 40.0], [0.0, 0.0])}
    assert "Without recipe.views.std, and not drawn: ball." in str(comparison)
    places = [line[0] for line in drawn(compare([*stds, none], over="num_views")).values()]
    assert sorted(places) == [[0], [3], [3]]


def test_values_that_look_alike_stand_apart(runs: dict[tuple[str, int, int], Path], tmp_path: Path) -> None:
    run = runs["simclr", 8, 0]
    lists = [change(run, tmp_path / str(last), classes=[*range(30), last]) for last in (30, 31)]
    (line,) = drawn(compare(lists, over="classes")).values()
    assert line[0] == [0, 1]


def test_every_score_goes_into_a_table_for_programs(runs: dict[tuple[str, int, int], Path], tmp_path: Path) -> None:
    comparison = compare(list(runs.values()), out=tmp_path / "scores.csv")
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 6 * 3
    assert {line["source"] for line in lines} == set(comparison.sources.values())
    found = {
        (line["objective"], int(line["num_groups"]), int(line["seed"])): float(line["value"])
        for line in lines
        if (line["score"], line["row"]) == ("kNN 5", "trained")
    }
    assert found == {(*setting, seed): knn for setting, scores in KNN.items() for seed, knn in scores.items()}


def test_from_the_command_line(runs: dict[tuple[str, int, int], Path], tmp_path: Path) -> None:
    folders = [str(run) for run in runs.values()]
    for name in ("n.png", "n.html", "n.md"):
        result = CliRunner().invoke(main, ["compare", *folders, "--over", "num_groups", "--out", str(tmp_path / name)])
        assert result.exit_code == 0 and "41.2 ± 1.3" in result.stdout and (tmp_path / name).stat().st_size > 100
    (first, *_) = json.loads(CliRunner().invoke(main, ["compare", *folders, "--json"]).stdout)["averages"]
    trained = next(score for score in first["scores"] if score["row"] == "trained")
    assert first["settings"] == {"objective": "simclr", "trained_on.num_groups": 8}
    assert trained["values"] == [40.0, 42.5, 41.0] and len(first["runs"]) == 3


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("colour", "--over colour: the runs do not differ in it; they differ in objective, num_groups"),
        ("batch_size", "--over batch_size: the runs do not differ in it"),
        ("seed", "--over seed: the runs do not differ in it; they differ in objective, num_groups"),
    ],
)
def test_what_they_do_not_differ_in_is_refused(
    runs: dict[tuple[str, int, int], Path], over: str, message: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        main, ["compare", *map(str, runs.values()), "--over", over, "--out", str(tmp_path / "x.png")]
    )
    assert result.exit_code == 2 and message in result.stderr and not (tmp_path / "x.png").exists()
