"""The loop of docs/reading.md, as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"


def test_the_loop_of_ones_own_reads_every_group_once(shared_dataset: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    for there, here in (
        ('"datasets/tour", n=2000', repr(str(shared_dataset))),
        ("batch_size=256", "batch_size=4"),
        ("    ...", "    print(tuple(images.shape), images.dtype, *labels.tolist())"),
    ):
        assert code.count(there) == 1
        code = code.replace(there, here)
    (tmp_path / "loop.py").write_text(code)
    done = subprocess.run([sys.executable, tmp_path / "loop.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.rpartition("torch.uint8")[0].strip() for line in lines] == ["(4, 2, 8, 8, 3)"] * 2 + [
        "(2, 2, 8, 8, 3)"
    ]
    labels = [int(word) for line in lines for word in line.rpartition("torch.uint8")[2].split()]
    assert sorted(labels) == sorted([3, 5, 8][index % 3] for index in range(10))
