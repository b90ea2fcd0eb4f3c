"""Groups decoded by processes of their own, into memory that they share with the reader.

Decoding an image of 32 px takes some 15 µs, which is about what it takes two threads to hand over the interpreter's
lock: threads do not get faster than one of them. Each process here decodes a whole batch and is asked for the next one
over a pipe; pixels do not pass through it.

    with DecodingProcesses(GroupDataset("datasets/demo"), count=8, most_groups=256) as decoding:
        images, labels = decoding.batch([5, 3, 999])     # as GroupDataset.batch; from up to 8 threads at once

A process is started when it is first needed, afresh rather than forked, and ends with its reader, however that ends.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import queue
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import numpy as np

from shards.codec import OFF_THE_GRID
from shards.dataset import GroupDataset

_NUM_SLOTS = 3
_PATIENCE_SECONDS = 10.0


class DecodingProcesses:
    """A dataset whose batches are decoded elsewhere.

    Args:
        dataset: what the processes read; each opens it anew.
        count: processes, and so batches decoded at a time.
        most_groups: the largest batch that will be asked for; memory for it is set aside per process.

    Raises:
        ValueError: `batch` says so when a process was killed; the next call starts another in its place.
        DamageError: as GroupDataset.batch.
    """

    def __init__(self, dataset: GroupDataset, *, count: int, most_groups: int) -> None:
        size = dataset.image_size
        self.num_images, self.image_size = dataset.num_images, size
        self._dataset = dataset
        self._shape = (most_groups, dataset.num_images, size, size, 3)
        self._count = count
        self._idle: queue.LifoQueue[_Decoder | None] = queue.LifoQueue()
        self._open()

    def __len__(self) -> int:
        return len(self._dataset)

    def __enter__(self) -> DecodingProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts the processes now, and waits until they are ready; they start when they are first needed otherwise."""
        places: list[_Decoder | None] = []
        try:
            for _ in range(self._count):
                places.append(self._idle.get())
            for number, decoder in enumerate(places):  # all at once, before the first is waited for
                places[number] = decoder or _Decoder(self._dataset, self._shape)
            for decoder in filter(None, places):
                decoder.batch(np.empty(0, np.int64))
        except (EOFError, ConnectionError) as error:
            raise ValueError("a decoding process ended while it started; if memory is short, use fewer") from error
        finally:
            for decoder in places:
                self._give_back(decoder)

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [B, K, height, width, 3] and int64 [B] labels, for at most `most_groups` groups.

        The images may lie in the shared memory, which is used for others once nothing refers to them any more.
        """
        decoder = self._idle.get()
        try:
            if decoder is None:
                decoder = _Decoder(self._dataset, self._shape)
            return decoder.batch(np.asarray(indices, dtype=np.int64))
        except (EOFError, ConnectionError) as error:
            assert decoder is not None
            code, decoder = decoder.close(), None
            ended = signal.strsignal(-code) if code < 0 else f"exit code {code}"
            raise ValueError(
                f"a decoding process ended ({ended}); if the machine was short of memory, use fewer --workers"
            ) from error
        finally:
            self._give_back(decoder)

    def close(self) -> None:
        """Ends the processes, once none is at work; a later batch starts new ones."""
        for decoder in [self._idle.get() for _ in range(self._count)]:
            if decoder is not None:
                decoder.close()
        self._open()

    def _give_back(self, decoder: _Decoder | None) -> None:
        """Makes a place free again; a process whose answer is still to come would give it to the next who asks."""
        is_pending = decoder is not None and decoder.is_asked  # Ctrl-C, or its process has ended
        self._idle.put(None if is_pending else decoder)
        if decoder is not None and is_pending:
            decoder.close()

    def _open(self) -> None:
        for _ in range(self._count):
            self._idle.put(None)


class _Decoder:
    """One process, and memory for three batches: one to copy out of, and two that are lent to whoever asked."""

    def __init__(self, dataset: GroupDataset, shape: tuple[int, ...]) -> None:
        package_folder = str(Path(__file__).parents[1])
        search_path = os.pathsep.join(filter(None, (package_folder, os.environ.get("PYTHONPATH"))))
        ours, theirs = socket.socketpair()
        memory = _open_memory(_NUM_SLOTS * _slot_bytes(shape))
        try:
            self._memory = mmap.mmap(memory, _NUM_SLOTS * _slot_bytes(shape))
            self._process = subprocess.Popen(
                (sys.executable, "-m", "shards.decoding", str(theirs.fileno()), str(memory)),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": search_path},
                pass_fds=(theirs.fileno(), memory),
                start_new_session=True,  # Ctrl-C reaches the reader alone, which ends its processes
            )
        finally:
            os.close(memory)
            theirs.close()
        self._shape = shape
        self._spare = list(range(1, _NUM_SLOTS))
        self.is_asked = False
        """Whether an answer is still to come."""
        self._connection = Connection(ours.detach())
        with suppress(ConnectionError):  # it is gone already: seen when the first batch is asked for
            self._connection.send((dataset, shape))

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert len(indices) <= self._shape[0], "more groups than memory was set aside for"
        slot = self._spare.pop() if self._spare else 0
        start = slot * _slot_bytes(self._shape) + OFF_THE_GRID
        memory = (ctypes.c_ubyte * math.prod(self._shape)).from_buffer(self._memory, start)
        if slot:
            weakref.finalize(memory, self._spare.append, slot).atexit = False
        self.is_asked = True
        self._connection.send((slot, indices))
        answer = self._connection.recv()
        self.is_asked = False
        if isinstance(answer, Exception):
            raise answer
        images = np.frombuffer(memory, np.uint8).reshape(self._shape)[: len(indices)]
        return (images if slot else images.copy()), answer

    def close(self) -> int:
        """Ends the process; returns its exit code. What was lent stays readable."""
        # Closing alone would not tell it, where a forked child has the socket, too.
        with socket.fromfd(self._connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end, suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # some systems refuse where the other end is gone
        self._connection.close()
        try:
            return self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _slot_bytes(shape: tuple[int, ...]) -> int:
    """Memory of one batch, which begins OFF_THE_GRID bytes after its start; a multiple of 32."""
    return -(-(math.prod(shape) + OFF_THE_GRID) // 32) * 32


def _open_memory(size: int) -> int:
    """Descriptor of memory that bears no name, so that nothing stays behind."""
    memory = os.memfd_create("decoded groups")
    os.ftruncate(memory, size)
    return memory


def serve(connection: Connection, memory: int) -> None:
    """What a process does: decodes the batches that it is asked for, until nobody can ask any more."""
    dataset, shape = connection.recv()
    mapped = mmap.mmap(memory, _NUM_SLOTS * _slot_bytes(shape))
    slots = [
        np.frombuffer(mapped, np.uint8, math.prod(shape), slot * _slot_bytes(shape) + OFF_THE_GRID).reshape(shape)
        for slot in range(_NUM_SLOTS)
    ]
    while True:
        slot, indices = connection.recv()
        answer: np.ndarray | Exception
        try:
            _, answer = dataset.batch(indices, out=slots[slot][: len(indices)])
        except Exception as error:  # whatever it is, it belongs to the one who asked
            answer = error
        connection.send(answer)


if __name__ == "__main__":
    with suppress(EOFError, ConnectionError):
        serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
