"""What RUN/evaluate.json says, as records; docs/evaluation.md has the file field by field.

evaluation = read_evaluation(Path("runs/tour"))          # None where the run was not scored
evaluation.tests[0].scores["trained"].knn
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrast.run_folder import EVALUATION_NAME
from shards.atomic import write_atomically
from shards.canonical import JSON
from shards.errors import DamageError

FORMAT = 3
ROWS = ("pixels", "random", "trained")
ROW_TITLES = {"pixels": "raw pixels", "random": "untrained encoder", "trained": "trained encoder"}


@dataclass(frozen=True, kw_only=True)
class FewShotScore:
    """Percentages."""

    mean: float
    interval: float
    """Half the width of the mean's 95 % confidence interval over the draws."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One row of a test's table. Accuracies are percentages; what was not asked for is None."""

    knn: float | None = None
    """With the test's k."""
    knn_by_k: dict[str, float] | None = None
    """With every k that was asked for."""
    linear: float | None = None
    linear_learning_rate: float | None = None
    """What the held-out tenth of the training labels picked."""
    logistic: float | None = None
    logistic_penalty: float | None = None
    """What the held-out tenth of the training labels picked."""
    logistic_converged: bool | None = None
    fewshot: dict[str, FewShotScore] | None = None
    """By number of images per class."""
    rankme: float | None = None
    """Of the training images' features."""


@dataclass(frozen=True, kw_only=True)
class TestScores:
    """Scores on one source of labelled images."""

    __test__ = False  # not a test of pytest's

    data: str
    """As it was asked for; cifar10 wherever that lies."""
    evaluated_on: str
    """The test images, and whether they are real."""
    trained_with: str
    """The labelled training images of the kNN and of the probes."""
    is_real: bool
    num_train: int
    num_test: int
    num_classes: int
    k: int
    """Neighbours of the scores' `knn`."""
    notes: tuple[str, ...]
    scores: dict[str, Score]
    """By row: trained, and with controls pixels and random."""
    content_sha256: str
    """Of all labelled and test images as the encoder was given them, and of their labels."""


@dataclass(frozen=True, kw_only=True)
class GroupScore:
    """One row of the table about groups; what was not asked for, or cannot be had of these groups, is None."""

    lidar: float | None = None
    alignment: dict[str, float] | None = None
    """Mean squared distance by kind of positives: tx (two augmented copies), tz (anchor and view), class."""
    uniformity: float | None = None
    """Of the anchors."""
    feature_dim: int | None = None


@dataclass(frozen=True, kw_only=True)
class GroupScores:
    """Scores on the groups of a dataset, which need no labelled images."""

    dataset: str
    recipe_id: str
    first: int
    """Index of the first group looked at."""
    num_groups: int
    num_images: int
    """Of a group: anchor and views."""
    notes: tuple[str, ...]
    scores: dict[str, GroupScore]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What RUN/evaluate.json says."""

    run: str
    encoder: str
    precision: str
    step: int
    weights_sha256: str
    tests: tuple[TestScores, ...]
    """In the order in which the sources were given."""
    groups: GroupScores | None
    seconds: float

    def __str__(self) -> str:
        """The tables that contrast eval prints."""
        from contrast.evaluation.tables import format_tables

        return format_tables(self)

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps; scores that are None are left out."""
        return {"format": FORMAT, **_plain(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> Evaluation:
        """The inverse of to_json.

        Raises:
            ValueError: a field is missing, unknown or of another type, or it is of another version.
        """
        try:
            if data.get("format") != FORMAT:
                raise ValueError(f"it is of format {data.get('format', 1)}, this version reads {FORMAT}")
            fields = {name: value for name, value in data.items() if name != "format"}
            tests = tuple(_test_from_json(test) for test in fields["tests"])
            groups = None if fields["groups"] is None else _groups_from_json(fields["groups"])
            return cls(**{**fields, "tests": tests, "groups": groups})
        except KeyError as error:
            raise ValueError(f"it has no {error.args[0]}") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error


def write_evaluation(run: Path, evaluation: Evaluation) -> None:
    """Replaces RUN/evaluate.json, whole."""
    text = json.dumps(evaluation.to_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(run / EVALUATION_NAME, text.encode())


def read_evaluation(run: Path) -> Evaluation | None:
    """What contrast eval wrote last; None where it was not run.

    Raises:
        DamageError: the file is not as it was written, or of another version.
    """
    path = run / EVALUATION_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamageError(f"{path} is not JSON ({error}): remove it and score again") from error
    try:
        return Evaluation.from_json(data)
    except ValueError as error:
        raise DamageError(f"{path} is no result of contrast eval ({error}): remove it and score again") from error


def _plain(value: Any) -> JSON:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        optional = isinstance(value, Score | GroupScore)
        return {name: _plain(item) for name, item in given.items() if not (optional and item is None)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _test_from_json(data: Mapping[str, JSON]) -> TestScores:
    scores = {}
    for row in _known_rows(data["scores"]):
        entry = dict(data["scores"][row])
        if "fewshot" in entry:
            entry["fewshot"] = {shots: FewShotScore(**score) for shots, score in entry["fewshot"].items()}
            _check_numbers(*(score.__dict__ for score in entry["fewshot"].values()))
        _check_numbers({name: value for name, value in entry.items() if name != "fewshot"})
        scores[row] = Score(**entry)
    return TestScores(**{**data, "notes": tuple(data["notes"]), "scores": scores})


def _groups_from_json(data: Mapping[str, JSON]) -> GroupScores:
    scores = {}
    for row in _known_rows(data["scores"]):
        _check_numbers(data["scores"][row])
        scores[row] = GroupScore(**data["scores"][row])
    return GroupScores(**{**data, "notes": tuple(data["notes"]), "scores": scores})


def _known_rows(scores: Mapping[str, JSON]) -> list[str]:
    unknown = sorted(set(scores) - set(ROWS))
    if unknown:
        raise ValueError(f"it has scores of {unknown[0]!r}")
    if "trained" not in scores:
        raise KeyError("scores of the trained encoder")
    return [row for row in ROWS if row in scores]


def _check_numbers(*entries: Mapping[str, JSON]) -> None:
    for entry in entries:
        for name, value in entry.items():
            numbers = value.values() if isinstance(value, dict) else (value,)
            if not all(isinstance(number, int | float) for number in numbers):
                raise ValueError(f"its {name} is no number")
