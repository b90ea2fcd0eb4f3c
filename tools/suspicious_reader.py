"""A reader that opens a dataset again and again while it is written, killed and resumed, and believes nothing.

It is told by a file which folder to look at, and writes down what it saw: how often, and everything that was wrong.

    python tools/suspicious_reader.py --current FILE --whole DIR --report FILE
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import time
import traceback
from collections import Counter
from pathlib import Path

import click
import numpy as np

from shards import GroupDataset, load_manifest, scan_markers
from shards.manifest import DATA_FOLDER, MANIFEST_NAME

_PAUSE_SECONDS = 0.03
_GROUPS_PER_LOOK = 4


class SuspiciousReader:
    """Compares whatever a folder shows with the dataset that it is meant to become.

    Args:
        whole: the dataset that nobody disturbed.
        manifests: bytes of the manifests that may be seen: the whole dataset's, and that of a beginning of it.
    """

    def __init__(self, whole: Path, manifests: list[bytes]) -> None:
        self._manifests = manifests
        self._tars = {shard.name: shard.sha256 for shard in load_manifest(whole).shards}
        dataset = GroupDataset(whole)
        self._images, self._labels = dataset.batch(range(len(dataset)))
        self._rng = random.Random(0)

    def look(self, folder: Path) -> str:
        """What the folder is: nothing yet, unfinished, or a dataset.

        Raises:
            AssertionError: something that bears a name is not what it will be in the end.
        """
        for path in sorted((folder / DATA_FOLDER).glob("train-*.tar")) if (folder / DATA_FOLDER).is_dir() else ():
            assert self._tars[path.name] == hashlib.sha256(path.read_bytes()).hexdigest(), f"{path.name} is half"
        for index, marker in scan_markers(folder).items():
            path = folder / DATA_FOLDER / marker.record.name
            assert path.stat().st_size == marker.bytes, f"the marker of {index} is ahead of its tar"
            assert marker.sha256 == self._tars[path.name], f"the marker of {index} is of other bytes"
        if not (folder / MANIFEST_NAME).exists():
            return "unfinished" if folder.exists() else "nothing yet"
        assert (folder / MANIFEST_NAME).read_bytes() in self._manifests, "a wrong manifest"
        dataset = GroupDataset(folder)
        indices = [self._rng.randrange(len(dataset)) for _ in range(_GROUPS_PER_LOOK)]
        images, labels = dataset.batch(indices)
        assert np.array_equal(images, self._images[indices]), f"the images of {indices} differ"
        assert np.array_equal(labels, self._labels[indices]), f"the labels of {indices} differ"
        return "a dataset"


@click.command(help=(__doc__ or "").split("\n\n")[0])
@click.option("--current", type=click.Path(path_type=Path), required=True, help="File that holds the folder's path.")
@click.option("--whole", type=click.Path(path_type=Path), required=True)
@click.option("--small", type=click.Path(path_type=Path), required=True)
@click.option("--report", type=click.Path(path_type=Path), required=True)
def main(current: Path, whole: Path, small: Path, report: Path) -> None:
    reader = SuspiciousReader(whole, [(folder / MANIFEST_NAME).read_bytes() for folder in (whole, small)])
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    while not stopped:
        text = current.read_text()
        try:
            seen[reader.look(Path(text))] += 1
        except Exception:
            if current.read_text() == text:  # else the folder is being thrown away
                wrong.append(f"{text}: {traceback.format_exc()}")
        time.sleep(_PAUSE_SECONDS)
    report.write_text(json.dumps({"seen": seen, "wrong": wrong}))


if __name__ == "__main__":
    main()
