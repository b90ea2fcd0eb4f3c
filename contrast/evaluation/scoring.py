"""Scores of a run on labelled images, with the two controls in the same table: raw pixels and an untrained encoder.

    result = evaluate_run("runs/demo", data="cifar10", num_train=10_000)
    print(format_table(result))

The encoder is frozen, the last checkpoint is the one that is scored, and nothing is chosen by its test score.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from numpy import ndarray

from contrast.checkpoint import CHECKPOINT_NAME, check_checkpoint_config, load_checkpoint, load_strictly
from contrast.distributed import resolve_device
from contrast.encoders import Encoder, build_encoder
from contrast.evaluation.features import FEATURES_FOLDER, cached_features, pixel_features, weights_sha256
from contrast.evaluation.knn import NUM_NEIGHBOURS, knn_accuracy
from contrast.evaluation.linear import linear_probe
from contrast.evaluation.sources import load_pair
from contrast.images import LabelledImages, align_classes
from contrast.run_folder import EVALUATION_NAME, RunRecord, read_run
from shards.atomic import write_atomically
from shards.canonical import JSON
from shards.console import Progress, format_count

ROWS = ("pixels", "random", "trained")
ROW_TITLES = {"pixels": "raw pixels", "random": "random encoder", "trained": "trained encoder"}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One row of the table; percentages."""

    knn: float
    linear: float
    linear_penalty: float
    linear_converged: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What RUN/evaluate.json says."""

    run: str
    evaluated_on: str
    """The test images, and whether they are real."""
    trained_with: str
    """The labelled training images of the kNN and of the probe."""
    is_real: bool
    num_train: int
    num_test: int
    num_classes: int
    k: int
    encoder: str
    precision: str
    step: int
    weights_sha256: str
    notes: tuple[str, ...]
    scores: dict[str, Score]
    """By row: pixels, random, trained."""
    seconds: float

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {
            **self.__dict__,
            "notes": list(self.notes),
            "scores": {row: dict(score.__dict__) for row, score in self.scores.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> Evaluation:
        """The inverse of to_json.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        try:
            scores = {row: Score(**data["scores"][row]) for row in ROWS}
            if any(
                not isinstance(value, int | float) for score in scores.values() for value in score.__dict__.values()
            ):
                raise ValueError("a score is no number")
            return cls(**{**data, "notes": tuple(data["notes"]), "scores": scores})
        except KeyError as error:
            raise ValueError(f"it has no {error.args[0]}") from error
        except TypeError as error:
            raise ValueError(str(error)) from error


def evaluate_run(
    run: str | Path,
    *,
    data: str,
    data_train: str | None = None,
    data_root: str | Path | None = None,
    num_train: int | None = None,
    k: int = NUM_NEIGHBOURS,
    device: str = "auto",
    num_threads: int | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Scores a run's newest checkpoint by kNN and linear probe, beside both controls, and writes RUN/evaluate.json.

    Args:
        data: cifar10, the name of a torchvision dataset, an image folder, or a folder of shards; see
            contrast.evaluation.sources.
        data_train: another source for the labelled training images.
        num_train: how many of those, classes balanced; all when None.
        num_threads: threads of a CPU operation; torch's own choice when None.

    Raises:
        ValueError: the run, the data or the device does not fit what is asked for.
        DamageError: the checkpoint or an image is damaged.
    """
    started = time.perf_counter()
    run = Path(run)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    place = resolve_device(device)
    record = read_run(run)
    trained, step = load_encoder(run, record)
    train, test = load_pair(
        data,
        image_size=record.trained_on.image_size,
        data_train=data_train,
        data_root=None if data_root is None else Path(data_root),
        trained_on=record.trained_on,
    )
    train, test, note = align_classes(train, test)
    notes = [note] if note else []
    if step < record.config.steps:
        notes.append(f"the run is not finished: step {step} of {record.config.steps}")
    if not test.is_real:
        notes.append("the test images came out of a generator: this is no score on photographs")
    if num_train is not None:
        train = train.first_of_each_class(num_train)

    scores = {}
    with Progress(total=len(ROWS), unit="rows", label="evaluating", quiet=quiet) as progress:
        for row in ROWS:
            progress.note(f"{ROW_TITLES[row]}: features, {k} nearest neighbours, linear probe")
            if row == "pixels":
                features = pixel_features(train.pixels), pixel_features(test.pixels)
            else:
                encoder = trained if row == "trained" else untrained_encoder(record)
                features = _features_of(encoder, train, test, run, place, record.config.precision)
            scores[row] = _score(*features, train.labels, test.labels, k=k)
            progress.advance(1)
    evaluation = Evaluation(
        run=str(run),
        evaluated_on=f"{test.name}, {format_count(len(test))} {'real' if test.is_real else 'generated'} images",
        trained_with=f"{train.name}, {format_count(len(train))} labels",
        is_real=test.is_real,
        num_train=len(train),
        num_test=len(test),
        num_classes=len(test.class_names),
        k=k,
        encoder=record.config.encoder,
        precision=record.config.precision,
        step=step,
        weights_sha256=weights_sha256(trained),
        notes=tuple(notes),
        scores=scores,
        seconds=round(time.perf_counter() - started, 1),
    )
    text = json.dumps(evaluation.to_json(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(run / EVALUATION_NAME, text.encode())
    return evaluation


def load_encoder(run: Path, record: RunRecord) -> tuple[Encoder, int]:
    """The trained encoder of a run, whole or not at all, and the step it is from.

    Raises:
        ValueError: there is no checkpoint, or it is of another encoder or run.
        DamageError: the checkpoint does not load.
    """
    state = load_checkpoint(run / CHECKPOINT_NAME)
    check_checkpoint_config(run, state, record.config)
    encoder = build_encoder(record.config.encoder, image_size=record.trained_on.image_size)
    load_strictly(encoder, state["encoder"], what=f"the encoder {record.config.encoder}")
    return encoder.to(memory_format=torch.channels_last), state["step"]  # type: ignore[call-overload]


def untrained_encoder(record: RunRecord) -> Encoder:
    """The encoder that the run started from: the same architecture, seed and initial weights, no training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(record.config.seed)
        encoder = build_encoder(record.config.encoder, image_size=record.trained_on.image_size)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def format_table(evaluation: Evaluation) -> str:
    """The scores as plain text, with what they were taken on."""
    lines = [f"tested on   {evaluation.evaluated_on}", f"labels from {evaluation.trained_with}"]
    lines += [f"note        {note}" for note in evaluation.notes]
    lines += ["", f"{'top-1 accuracy, %':<20}{'kNN':>8}{'linear':>9}"]
    for row in ROWS:
        score = evaluation.scores[row]
        unfinished = "" if score.linear_converged else "  (probe not converged)"
        lines.append(f"{ROW_TITLES[row]:<20}{score.knn:>8.1f}{score.linear:>9.1f}{unfinished}")
    return "\n".join(lines)


def _features_of(
    encoder: Encoder, train: LabelledImages, test: LabelledImages, run: Path, device: torch.device, precision: str
) -> tuple[ndarray, ndarray]:
    folder = run / FEATURES_FOLDER
    return (
        cached_features(encoder, train, folder=folder, device=device, precision=precision),
        cached_features(encoder, test, folder=folder, device=device, precision=precision),
    )


def _score(
    train_features: ndarray, test_features: ndarray, train_labels: ndarray, test_labels: ndarray, *, k: int
) -> Score:
    probe = linear_probe(train_features, train_labels, test_features, test_labels)
    knn = knn_accuracy(train_features, train_labels, test_features, test_labels, k=k)
    return Score(
        knn=round(100 * knn, 2),
        linear=round(100 * probe.accuracy, 2),
        linear_penalty=probe.penalty,
        linear_converged=probe.converged,
    )
