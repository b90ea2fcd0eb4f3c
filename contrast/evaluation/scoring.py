"""Scores of a run, with the two controls in the same table: raw pixels and an untrained encoder.

    result = evaluate_run("runs/tour", data="cifar10", data_root="datasets/cifar10", num_train=10_000)
    print(format_tables(result))

The encoder is frozen, the last checkpoint is the one that is scored, and nothing is chosen by its test score.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

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
from contrast.evaluation.groups import Encode, load_groups, score_groups
from contrast.evaluation.labelled import load_test
from contrast.evaluation.results import (
    ROW_TITLES,
    ROWS,
    Evaluation,
    GroupScore,
    Score,
    write_evaluation,
)
from contrast.isolation import own_torch
from contrast.run_folder import RunRecord, read_run
from contrast.run_options import check_threads
from shards.numbers import check_flag, check_whole
from shards.progress import Progress

TEST_SCORES = ("knn", "linear", "logistic", "fewshot", "rankme")
"""Of labelled images."""
GROUP_SCORES = ("lidar", "alignment", "uniformity")
"""Of the groups of a dataset."""
DEFAULT_SCORES = ("knn", "linear")


def evaluate_run(
    run: str | Path,
    *,
    data: str | Path | Sequence[str | Path] = (),
    data_train: str | Path | None = None,
    data_root: str | Path | None = None,
    num_train: int | str | None = None,
    groups: str | Path | None = None,
    scores: str | Sequence[str] | None = None,
    k: int | Sequence[int] | None = None,
    controls: bool = True,
    device: str | torch.device = "auto",
    threads: int | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Scores a run's newest checkpoint, beside both controls, and writes RUN/evaluate.json anew.

    Args:
        data: one source of labelled images or several: cifar10, the name of a torchvision dataset, an image folder, or
            a folder of shards; see contrast.evaluation.sources.
        data_train: another source for the labelled training images.
        num_train: how many of those, classes balanced, a count such as 10_000 or "10k"; all when None.
        groups: a dataset of shards for lidar, alignment and uniformity.
        scores: names among TEST_SCORES and GROUP_SCORES; knn and linear when None, and of `groups` all that it has.
        k: neighbours of kNN; when None those of 1, 10, 20 and 200 that the training labels are enough for.
        controls: whether raw pixels and the untrained encoder are scored, too.
        threads: of a CPU operation; torch's own choice when None.

    Raises:
        ValueError: the run, the data or the device does not fit what is asked for.
        DamageError: the checkpoint or an image is damaged.
    """
    sources = [str(data)] if isinstance(data, str | Path) else [str(source) for source in data]
    if isinstance(scores, str):
        scores = [name.strip() for name in scores.split(",")]
    test_names, group_names = choose_scores(scores, has_data=bool(sources), has_groups=groups is not None)
    place = resolve_device(str(device))
    with own_torch(place, num_threads=check_threads(threads)):
        return _evaluate(
            Path(run),
            sources,
            test_names,
            group_names,
            data_train=None if data_train is None else str(data_train),
            data_root=data_root,
            num_train=None if num_train is None else check_whole("num_train", num_train, 1),
            groups=groups,
            ks=_neighbours(k),
            controls=check_flag("controls", controls),
            place=place,
            quiet=quiet,
        )


def _neighbours(k: int | Sequence[int] | None) -> tuple[int, ...] | None:
    if k is None:
        return None
    ks = [k] if isinstance(k, int | str) or not isinstance(k, Iterable) else list(k)
    if not ks:
        raise ValueError("k: give whole numbers above 0, such as 1,10")
    return tuple(dict.fromkeys(check_whole("k", value, 1) for value in ks))


def _evaluate(
    run: Path,
    sources: Sequence[str],
    test_names: tuple[str, ...],
    group_names: tuple[str, ...],
    *,
    data_train: str | None,
    data_root: str | Path | None,
    num_train: int | None,
    groups: str | Path | None,
    ks: tuple[int, ...] | None,
    controls: bool,
    place: torch.device,
    quiet: bool,
) -> Evaluation:
    started = time.perf_counter()
    record = read_run(run)
    trained, step = load_encoder(run, record)
    notes = []
    if step != record.config.steps:
        notes.append(f"the run is not finished: step {step} of {record.config.steps}")
    if controls and record.trained_on.image_size > PIXEL_CONTROL_SIZE:
        notes.append(f"raw pixels are those of the images shrunk to {PIXEL_CONTROL_SIZE} px")
    tests = [
        load_test(
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
                table[row] = test.score(encode(test.train), encode(test.test), test_names, device=place)
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
        groups=None if held is None else held.record(group_scores, notes=notes),
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


def _encode_as(row: str, record: RunRecord, trained: Encoder, run: Path, device: torch.device) -> Encode:
    """How a row of the tables turns images into features."""
    if row == "pixels":
        return lambda images: pixel_features(images.pixels)
    encoder = trained if row == "trained" else untrained_encoder(record)
    return lambda images: cached_features(
        encoder, images, folder=run / FEATURES_FOLDER, device=device, precision=record.config.precision
    )
