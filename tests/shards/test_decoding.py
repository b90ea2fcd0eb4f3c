"""Decoding in processes: the same groups, memory that is lent and comes back, processes that outlive nobody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shards.decoding
from shards.codec import OFF_THE_GRID, empty_pixels
from shards.dataset import GroupDataset
from shards.decoding import DecodingProcesses
from shards.errors import DamageError
from shards.manifest import Manifest
from shards.markers import tar_path
from shards.processes import host_tag, is_surely_dead


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Manifest]) -> Path:
    """Twenty-four groups in shards of five."""
    directory = tmp_path_factory.mktemp("decoding") / "dataset"
    build(directory, 24, shard_size=5)
    return directory


@pytest.fixture
def decoding(groups: Path) -> Iterator[DecodingProcesses]:
    with DecodingProcesses(GroupDataset(groups), count=2, most_groups=12) as processes:
        yield processes


def pids(decoding: DecodingProcesses) -> list[int]:
    """Of the processes that are running and idle."""
    return [decoder._process.pid for decoder in decoding._idle.queue if decoder is not None]


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not is_surely_dead(host_tag(), pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def test_the_groups_are_those_of_the_dataset_whoever_asks(decoding: DecodingProcesses, groups: Path) -> None:
    dataset = GroupDataset(groups)
    rng = np.random.default_rng(0)
    wanted = [rng.integers(len(dataset), size=size) for size in (12, 1, 0, 7, 12, 5, 12, 3)]
    assert pids(decoding) == []  # none is started before it is needed
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(decoding.batch, wanted))
    for indices, (images, labels) in zip(wanted, got, strict=True):
        expected_images, expected_labels = dataset.batch(indices)
        assert np.array_equal(images, expected_images) and images.dtype == np.uint8
        assert np.array_equal(labels, expected_labels) and labels.dtype == np.int64
    assert len(pids(decoding)) == 2


def test_what_is_held_is_never_written_over(groups: Path) -> None:
    """More batches are held than there is shared memory for; even a slice of one keeps its pixels."""
    dataset = GroupDataset(groups)
    with DecodingProcesses(dataset, count=1, most_groups=4) as decoding:
        held = [decoding.batch(range(first, first + 4))[0] for first in range(0, 24, 4)]
        rest = held[1][2:, 1]
        del held[1]
        for _ in range(5):
            decoding.batch(range(20, 24))
        for first, images in zip((0, 8, 12, 16, 20), held, strict=True):
            assert np.array_equal(images, dataset.batch(range(first, first + 4))[0])
        assert np.array_equal(rest, dataset.batch([6, 7])[0][:, 1])
    assert np.array_equal(rest, dataset.batch([6, 7])[0][:, 1])  # when the process has gone, too


def test_pixels_lie_where_they_are_decoded_into_fast(decoding: DecodingProcesses, groups: Path) -> None:
    """At multiples of 32 bytes libjpeg-turbo would write past the caches."""
    made = [decoding.batch(range(size))[0] for size in (12, 5)]
    made += [GroupDataset(groups).batch(range(size))[0] for size in (3, 12)]
    made += [empty_pixels((size, 2, 32, 32, 3)) for size in (1, 300)]
    assert OFF_THE_GRID % 16, "nor at multiples of 16, the vectors of processors without AVX2"
    for images in made:
        assert images.ctypes.data % 32 == OFF_THE_GRID and images.flags.c_contiguous and images.flags.writeable
    assert empty_pixels((0, 2, 3)).shape == (0, 2, 3)


def test_memory_comes_back_when_nobody_holds_it(decoding: DecodingProcesses) -> None:
    places = {decoding.batch(range(12))[0].ctypes.data for _ in range(20)}
    assert len(places) <= 2


def test_damage_is_told_as_by_the_dataset(groups: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(groups, tmp_path / "broken")
    dataset = GroupDataset(broken)
    offset = int(dataset.offsets(0)[3, 1])
    with open(tar_path(broken, 0), "r+b") as tar:
        tar.seek(offset)
        tar.write(b"no picture")
    with pytest.raises(DamageError) as told:
        dataset.batch([1, 3])
    assert "000000003.anchor.jpg" in str(told.value)
    with DecodingProcesses(dataset, count=1, most_groups=4) as decoding:
        with pytest.raises(DamageError) as told_by_process:
            decoding.batch([1, 3])
        assert str(told_by_process.value) == str(told.value)
        assert len(decoding.batch([1, 2])[0]) == 2  # it goes on


def test_a_killed_process_is_named_and_replaced(decoding: DecodingProcesses) -> None:
    decoding.start()
    for pid in pids(decoding):
        os.kill(pid, signal.SIGKILL)
        wait_until_dead(pid)
    with pytest.raises(ValueError, match=r"a decoding process ended \(Killed\); if the machine was short of memory"):
        decoding.batch([0])
    assert len(decoding.batch([0, 1])[0]) == 2


def test_an_answer_that_nobody_waited_for_is_not_given_to_the_next(
    decoding: DecodingProcesses, groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding.start()
    before = pids(decoding)
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "recv", interrupt)
        with pytest.raises(KeyboardInterrupt):
            decoding.batch([0, 1])
    images, labels = decoding.batch([7, 8])
    expected_images, expected_labels = GroupDataset(groups).batch([7, 8])
    assert np.array_equal(images, expected_images) and np.array_equal(labels, expected_labels)
    assert len(set(before) - set(pids(decoding))) == 1  # whose answer was pending


def test_starting_that_is_interrupted_leaves_no_answer_to_the_next(
    decoding: DecodingProcesses, groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "recv", interrupt)
        with pytest.raises(KeyboardInterrupt):
            decoding.start()
    assert len(pids(decoding)) == 1, "of the two, one had not been asked yet"
    expected_images, expected_labels = GroupDataset(groups).batch([7, 8])
    for _ in range(2):
        images, labels = decoding.batch([7, 8])
        assert np.array_equal(images, expected_images) and np.array_equal(labels, expected_labels)
    decoding.start()
    assert len(pids(decoding)) == 2


def test_starting_that_is_interrupted_between_two_processes_keeps_the_first(
    decoding: DecodingProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = shards.decoding._Decoder, []

    def make_one(*arguments: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        made.append(make(*arguments))
        return made[0]

    with monkeypatch.context() as patched:
        patched.setattr(shards.decoding, "_Decoder", make_one)
        with pytest.raises(KeyboardInterrupt):
            decoding.start()
    assert pids(decoding) == [made[0]._process.pid]


def test_closing_waits_for_no_child_that_has_the_connection_too(decoding: DecodingProcesses) -> None:
    decoding.start()
    decoders = list(decoding._idle.queue)
    copies = [os.dup(decoder._connection.fileno()) for decoder in decoders]  # what a forked child has
    try:
        decoding.close()
    finally:
        for copy in copies:
            os.close(copy)
    assert [decoder._process.returncode for decoder in decoders] == [0, 0], "they ended by themselves"


def interrupt(connection: Connection) -> None:
    raise KeyboardInterrupt


def test_a_process_that_cannot_start_is_an_error_and_not_a_wait(
    decoding: DecodingProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "/bin/false")
        with pytest.raises(ValueError, match="a decoding process ended while it started"):
            decoding.start()
    decoding.close()
    assert len(decoding.batch([0])[0]) == 1


def test_closing_ends_the_processes_and_a_later_batch_starts_new_ones(decoding: DecodingProcesses) -> None:
    decoding.start()
    before = pids(decoding)
    assert len(before) == 2
    decoding.close()
    for pid in before:
        wait_until_dead(pid)
    assert len(decoding.batch([0])[0]) == 1
    assert not set(pids(decoding)) & set(before)


def test_processes_do_not_outlive_a_reader_that_was_killed(groups: Path) -> None:
    program = (
        "import sys; from shards import GroupDataset; from shards.decoding import DecodingProcesses\n"
        "decoding = DecodingProcesses(GroupDataset(sys.argv[1]), count=2, most_groups=4)\n"
        "decoding.start()\n"
        "print(*[decoder._process.pid for decoder in decoding._idle.queue], flush=True)\n"
        "while True: decoding.batch([0, 1, 2, 3])\n"
    )
    reader = subprocess.Popen([sys.executable, "-c", program, str(groups)], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    with reader.stdout:
        children = [int(pid) for pid in reader.stdout.readline().split()]
    assert len(children) == 2
    reader.kill()
    reader.wait()
    for pid in children:
        wait_until_dead(pid)
