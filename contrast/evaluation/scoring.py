"""Scores of a run, with the two controls in the same table: raw pixels and an untrained encoder.

    result = evaluate_run("runs/tour", data="cifar10", data_root="datasets/cifar10", num_train=10_000)
    print(format_tables(result))

The encoder is frozen, the last checkpoint is the one that is scored, and nothing is chosen by its test score.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from contrast.checkpoint import load_run, load_strictly
from contrast.devices import explain_out_of_memory, resolve_device
from contrast.encoders import Encoder, build_encoder
from contrast.evaluation.features import (
    FEATURES_FOLDER,
    PIXEL_CONTROL_SIZE,
    cached_features,
    pixel_features,
    weights_sha256,
)
from contrast.evaluation.fewshot import DEFAULT_SHOTS, check_shots, few_shot_accuracies
from contrast.evaluation.geometry import rankme
from contrast.evaluation.groups import Encode, doubt_lidar, load_groups, score_groups
from contrast.evaluation.holdout import hold_out_tenth
from contrast.evaluation.knn import DEFAULT_KS, NUM_NEIGHBOURS, check_neighbours, knn_accuracies
from contrast.evaluation.linear import linear_probe
from contrast.evaluation.logistic import logistic_regression
from contrast.evaluation.results import (
    ROW_TITLES,
    ROWS,
    Evaluation,
    FewShotScore,
    GroupScore,
    GroupScores,
    Score,
    TestScores,
    write_evaluation,
)
from contrast.evaluation.sources import load_pair, name_source
from contrast.images import LabelledImages, align_classes
from contrast.run_folder import RunRecord, read_run
from contrast.run_options import check_threads
from shards.progress import Progress
from shards.quantities import format_count

TEST_SCORES = ("knn", "linear", "logistic", "fewshot", "rankme")
"""Of labelled images."""
GROUP_SCORES = ("lidar", "alignment", "uniformity")
"""Of the groups of a dataset."""
DEFAULT_SCORES = ("knn", "linear")


def evaluate_run(
    run: str | Path,
    *,
    data: str | Path | Sequence[str | Path] = (),
    data_train: str | None = None,
    data_root: str | Path | None = None,
    num_train: int | None = None,
    groups: str | Path | None = None,
    scores: Sequence[str] | None = None,
    k: int | Sequence[int] | None = None,
    controls: bool = True,
    device: str = "auto",
    num_threads: int | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Scores a run's newest checkpoint, beside both controls, and writes RUN/evaluate.json anew.

    Args:
        data: one source of labelled images or several: cifar10, the name of a torchvision dataset, an image folder, or
            a folder of shards; see contrast.evaluation.sources.
        data_train: another source for the labelled training images.
        num_train: how many of those, classes balanced; all when None.
        groups: a dataset of shards for lidar, alignment and uniformity.
        scores: names among TEST_SCORES and GROUP_SCORES; knn and linear when None, and of `groups` all that it has.
        k: neighbours of kNN; when None those of 1, 10, 20 and 200 that the training labels are enough for.
        controls: whether raw pixels and the untrained encoder are scored, too.
        num_threads: threads of a CPU operation; torch's own choice when None.

    Raises:
        ValueError: the run, the data or the device does not fit what is asked for.
        DamageError: the checkpoint or an image is damaged.
    """
    started = time.perf_counter()
    run = Path(run)
    sources = [str(data)] if isinstance(data, str | Path) else [str(source) for source in data]
    test_names, group_names = choose_scores(scores, has_data=bool(sources), has_groups=groups is not None)
    ks = None if k is None else (k,) if isinstance(k, int) else tuple(dict.fromkeys(k))
    if ks is not None and (not ks or min(ks) < 1):
        raise ValueError(f"--k {','.join(map(str, ks))}: give whole numbers above 0, such as 1,10")
    check_threads(num_threads)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    place = resolve_device(device)
    record = read_run(run)
    trained, step = load_encoder(run, record)
    notes = []
    if step != record.config.steps:
        notes.append(f"the run is not finished: step {step} of {record.config.steps}")
    if controls and record.trained_on.image_size > PIXEL_CONTROL_SIZE:
        notes.append(f"raw pixels are those of the images shrunk to {PIXEL_CONTROL_SIZE} px")
    tests = [
        _load_test(
            source, record, data_train=data_train, data_root=data_root, num_train=num_train, ks=ks, names=test_names
        )
        for source in sources
    ]
    for test in tests:
        test.check(test_names)
    held = None
    if groups is not None:
        held = load_groups(
            groups, image_size=record.trained_on.image_size, trained_on=record.trained_on, names=group_names
        )

    rows = ROWS if controls else ("trained",)
    test_scores: list[dict[str, Score]] = [{} for _ in tests]
    group_scores: dict[str, GroupScore] = {}
    num_parts = len(rows) * (len(tests) + (held is not None))
    with (
        explain_out_of_memory(place, fix="free some of it, or score with --device cpu"),
        Progress(total=num_parts, unit="parts", label="evaluating", quiet=quiet) as progress,
    ):
        for row in rows:
            encode = _encode_as(row, record, trained, run, place)
            for test, table in zip(tests, test_scores, strict=True):
                progress.note(f"{ROW_TITLES[row]}, {test.source}: features, {', '.join(test_names)}")
                table[row] = _score_test(encode(test.train), encode(test.test), test, test_names, device=place)
                progress.advance(1)
            if held is not None:
                progress.note(f"{ROW_TITLES[row]}, {held.dataset}: features, {', '.join(group_names)}")
                group_scores[row] = score_groups(held, encode, record.config.augment, names=group_names)
                progress.advance(1)
    evaluation = Evaluation(
        run=str(run),
        encoder=record.config.encoder,
        precision=record.config.precision,
        step=step,
        weights_sha256=weights_sha256(trained),
        tests=tuple(test.record(table, notes=notes) for test, table in zip(tests, test_scores, strict=True)),
        groups=None
        if held is None
        else GroupScores(
            dataset=held.dataset,
            recipe_id=held.recipe_id,
            first=held.first,
            num_groups=held.images.shape[0],
            num_images=held.images.shape[1],
            notes=(*held.notes, *doubt_lidar(held, group_scores), *notes),
            scores=group_scores,
        ),
        seconds=round(time.perf_counter() - started, 1),
    )
    write_evaluation(run, evaluation)
    return evaluation


def choose_scores(
    scores: Sequence[str] | None, *, has_data: bool, has_groups: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The scores to take of labelled images and of groups, in the order of the tables.

    Raises:
        ValueError: a name is unknown, or what a score is taken on was not given, or nothing uses what was.
    """
    if not has_data and not has_groups:
        raise ValueError("nothing to score on: give --data, such as --data cifar10, or --groups")
    known = (*TEST_SCORES, *GROUP_SCORES)
    for name in scores or ():
        if name not in known:
            raise ValueError(f"unknown score {name!r}: choose among {', '.join(known)}")
    wanted = scores if scores is not None else (*DEFAULT_SCORES, *GROUP_SCORES)
    of_tests = tuple(name for name in TEST_SCORES if name in wanted and (has_data or scores is not None))
    of_groups = tuple(name for name in GROUP_SCORES if name in wanted and (has_groups or scores is not None))
    if of_tests and not has_data:
        raise ValueError(f"{of_tests[0]} is a score of labelled images: give --data, such as --data cifar10")
    if of_groups and not has_groups:
        raise ValueError(f"{of_groups[0]} is a score of groups: give --groups, a dataset of shards")
    if has_data and not of_tests:
        raise ValueError(f"--data is given and no score uses it: add one of {', '.join(TEST_SCORES)} to --scores")
    if has_groups and not of_groups:
        raise ValueError(f"--groups is given and no score uses it: add one of {', '.join(GROUP_SCORES)} to --scores")
    return of_tests, of_groups


def load_encoder(run: Path, record: RunRecord) -> tuple[Encoder, int]:
    """The trained encoder of a run, whole or not at all, and the step it is from.

    Raises:
        ValueError: there is no checkpoint, or it is of another encoder or run.
        DamageError: the checkpoint does not load.
    """
    state = load_run(run, record)
    encoder = build_encoder(record.config.encoder, image_size=record.trained_on.image_size)
    load_strictly(encoder, state["encoder"], what=f"the encoder {record.config.encoder}")
    return encoder.to(memory_format=torch.channels_last), state["step"]  # type: ignore[call-overload]


def untrained_encoder(record: RunRecord) -> Encoder:
    """The encoder that the run started from: the same architecture, seed and initial weights, no training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(record.config.seed)
        encoder = build_encoder(record.config.encoder, image_size=record.trained_on.image_size)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class _Test:
    """One source of labelled images, loaded."""

    source: str
    train: LabelledImages
    test: LabelledImages
    ks: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def k(self) -> int:
        """Neighbours of the one kNN score that a table has room for."""
        return NUM_NEIGHBOURS if NUM_NEIGHBOURS in self.ks else self.ks[0]

    def check(self, names: tuple[str, ...]) -> None:
        """Raises ValueError when a score needs more training labels than there are: before the work, not after it."""
        if "knn" in names:
            check_neighbours(self.ks, num_train=len(self.train))
        if "linear" in names or "logistic" in names:
            hold_out_tenth(self.train.labels)
        if "fewshot" in names:
            check_shots(self.train.labels)

    def record(self, scores: dict[str, Score], *, notes: Sequence[str]) -> TestScores:
        kind = "real" if self.test.is_real else "generated"
        return TestScores(
            data=self.source,
            evaluated_on=f"{self.test.name}, {format_count(len(self.test))} {kind} images",
            trained_with=f"{self.train.name}, {format_count(len(self.train))} labels",
            content_sha256=_hash_content(self.train, self.test),
            is_real=self.test.is_real,
            num_train=len(self.train),
            num_test=len(self.test),
            num_classes=len(self.test.class_names),
            k=self.k,
            notes=(*self.notes, *notes),
            scores=scores,
        )


def _load_test(
    source: str,
    record: RunRecord,
    *,
    data_train: str | None,
    data_root: str | Path | None,
    num_train: int | None,
    ks: tuple[int, ...] | None,
    names: tuple[str, ...],
) -> _Test:
    train, test = load_pair(
        source,
        image_size=record.trained_on.image_size,
        data_train=data_train,
        data_root=None if data_root is None else Path(data_root),
        trained_on=record.trained_on,
    )
    train, test, left_out = align_classes(train, test)
    notes = [*test.notes, *left_out]
    if not test.is_real:
        notes.append("the test images came out of a generator: this is no score on photographs")
    if num_train is not None:
        if num_train < len(train.class_names):
            raise ValueError(
                f"--num-train {num_train}: {len(train.class_names)} classes need a label each; ask for more"
            )
        train = train.first_of_each_class(num_train)
    fewest = int(np.bincount(train.labels).min())
    if "fewshot" in names and fewest < 2 * max(DEFAULT_SHOTS):
        notes.append(
            f"few-shot draws of {max(DEFAULT_SHOTS)} from {fewest} images of a class are much alike: their "
            "intervals are too narrow"
        )
    if ks is None:
        ks = tuple(k for k in DEFAULT_KS if k <= len(train))
        if ks != DEFAULT_KS:
            notes.append(f"no kNN of more than {ks[-1]} neighbours: there are {len(train)} training labels")
    return _Test(source=name_source(source), train=train, test=test, ks=ks, notes=tuple(notes))


def _hash_content(*parts: LabelledImages) -> str:
    digest = hashlib.sha256()
    for images in parts:
        digest.update(f"{images.sha256} {images.class_names} {images.labels.dtype}".encode())
        digest.update(np.ascontiguousarray(images.labels).data)
    return digest.hexdigest()


def _encode_as(row: str, record: RunRecord, trained: Encoder, run: Path, device: torch.device) -> Encode:
    """How a row of the tables turns images into features."""
    if row == "pixels":
        return lambda images: pixel_features(images.pixels)
    encoder = trained if row == "trained" else untrained_encoder(record)
    return lambda images: cached_features(
        encoder, images, folder=run / FEATURES_FOLDER, device=device, precision=record.config.precision
    )


def _score_test(
    train_features: ndarray,
    test_features: ndarray,
    test: _Test,
    names: tuple[str, ...],
    *,
    device: torch.device,
) -> Score:
    given = (train_features, test.train.labels, test_features, test.test.labels)
    found: dict[str, object] = {}
    if "knn" in names:
        accuracies = knn_accuracies(*given, ks=test.ks, device=device)
        found["knn"] = _percent(accuracies[test.k])
        found["knn_by_k"] = {str(k): _percent(accuracy) for k, accuracy in accuracies.items()}
    if "linear" in names:
        probe = linear_probe(*given, device=device)
        found["linear"], found["linear_learning_rate"] = _percent(probe.accuracy), probe.learning_rate
    if "logistic" in names:
        regression = logistic_regression(*given)
        found["logistic"], found["logistic_penalty"] = _percent(regression.accuracy), regression.penalty
        found["logistic_converged"] = regression.converged
    if "fewshot" in names:
        found["fewshot"] = {
            str(shots): FewShotScore(mean=_percent(score.mean), interval=_percent(score.interval))
            for shots, score in few_shot_accuracies(*given, device=device).items()
        }
    if "rankme" in names:
        found["rankme"] = round(rankme(train_features), 2)
    return Score(**found)  # type: ignore[arg-type]


def _percent(share: float) -> float:
    return round(100 * share, 2)
