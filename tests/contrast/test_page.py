"""The page opens from a file and says what the run's own files say."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from contrast.config import TrainConfig
from contrast.evaluation.scoring import evaluate_run
from contrast.page import draw_loss_curve, write_report
from contrast.run_options import RunOptions
from contrast.training import train_encoder
from shards.errors import DamageError


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


@pytest.fixture(scope="module")
def run(groups: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "<run>"
    config = TrainConfig(steps=4, batch_size=16, head_hidden_dim=32, head_dim=16)
    train_encoder(config, shards=groups, n=72, out=folder, options=RunOptions(device="cpu", quiet=True, log_every=1))
    return folder


def test_a_page_without_scores_says_how_to_get_them(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report(run, tmp_path / "report.html").read_text()
    assert "Not scored yet: contrast eval" in page
    assert "&lt;run&gt;" in page and "<run>" not in page  # names are escaped
    monkeypatch.chdir(run)
    assert "<title>&lt;run&gt;: simclr on" in write_report(".", tmp_path / "report.html").read_text()


def test_the_page_holds_everything(run: Path, groups: Path, tmp_path: Path) -> None:
    scores = ("knn", "linear", "logistic", "rankme", "lidar", "alignment", "uniformity")
    evaluation = evaluate_run(run, data=str(groups), groups=groups, scores=scores, device="cpu", quiet=True)
    (test,) = evaluation.tests
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "sheet.png")
    page = write_report(run, tmp_path / "report.html", sheet=tmp_path / "sheet.png").read_text()
    for score in test.scores.values():
        assert f"<td>{score.knn:.1f}</td>" in page and f"<td>{score.linear:.1f}</td>" in page
        assert f"<td>{score.logistic:.1f}" in page and f"<td>{score.rankme:.1f}</td>" in page
    for score in evaluation.groups.scores.values():
        assert f"<td>{score.lidar:.1f}</td>" in page and f"<td>{score.alignment['tz']:.3f}</td>" in page
    assert f"{test.evaluated_on}, 4 classes" in page and "no score on photographs" in page
    assert base64.b64encode((tmp_path / "sheet.png").read_bytes()).decode() in page
    assert page.count("<svg") == 1
    links = Links()
    links.feed(page)
    assert links.found and all(link.startswith(("data:", "#")) for link in links.found)
    assert not re.search(r"<script|@import|url\(http", page)


def test_the_curve_is_of_the_objective_s_loss() -> None:
    svg = draw_loss_curve([{"step": 1, "loss": 2.0, "chance_loss": 3.0}], objective="cross-entropy")
    assert "cross-entropy loss" in svg and "contrastive" not in svg


def test_wrong_input_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"sheet\.png is not a PNG"):
        write_report(run, tmp_path / "report.html", sheet=tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="is not a run"):
        write_report(tmp_path, tmp_path / "report.html")
    for name in ("config.json", "environment.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "evaluate.json").write_text("{")
    with pytest.raises(DamageError, match=r"evaluate\.json is not JSON"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "evaluate.json",
            '{"scores": 1}',
            r"evaluate\.json is no result of contrast eval \(it is of format 1, this version reads 3\): remove",
        ),
        ("evaluate.json", '{"format": 3}', r"evaluate\.json is no result of contrast eval \(it has no tests\): remove"),
        ("evaluate.json", "[]", r"evaluate\.json is no result of contrast eval .*: remove it and score again"),
        ("evaluate.json", "{}", r"evaluate\.json is no result of contrast eval .*: remove it and score again"),
        (
            "metrics.jsonl",
            '{"step": 1, "lo\n{"step": 2}\n',
            r"metrics\.jsonl, line 1, is no record .*: remove that line",
        ),
        ("metrics.jsonl", "7\n", r"metrics\.jsonl, line 1, is no record .*: remove that line"),
        ("environment.json", "", r"environment\.json is not as it was written .*: remove it, nothing depends on it"),
        ("environment.json", "{}", r"environment\.json is not as it was written \(no list of starts\): remove it"),
        ("metrics.jsonl", '{"step": 2}\n', r"metrics\.jsonl: the record of step 2 has no loss; remove its line"),
    ],
)
def test_damaged_files_of_a_run_are_named(run: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    for copied in ("config.json", "environment.json"):
        (tmp_path / copied).write_bytes((run / copied).read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(DamageError, match=message):
        write_report(tmp_path, tmp_path / "report.html")


def test_scores_of_other_fields_are_named(run: Path, groups: Path, tmp_path: Path) -> None:
    evaluation = evaluate_run(run, data=str(groups), scores=("knn",), device="cpu", quiet=True).to_json()
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    (test,) = evaluation["tests"]
    changes = (
        {"scores": {**test["scores"], "trained": {"top1": 5.0}}},
        {"scores": {**test["scores"], "trained": {"knn": "good"}}},
        {"scores": {"pixels": test["scores"]["pixels"]}},
        {"scores": {**test["scores"], "other": {}}},
        {"flavour": "x"},
        {"notes": None},
    )
    for change in ({"flavour": "x"}, {"tests": 5}, *({"tests": [{**test, **change}]} for change in changes)):
        (tmp_path / "evaluate.json").write_text(json.dumps({**evaluation, **change}))
        with pytest.raises(DamageError, match=r"evaluate\.json is no result of contrast eval .*: remove it"):
            write_report(tmp_path, tmp_path / "report.html")
