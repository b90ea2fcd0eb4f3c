"""A block that is lost, once, in any stage: nothing of it or after it is published, and resuming repairs everything."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

import synthgen
from shards.verification import verify
from shards.writer import ShardWriter
from synthgen.pipeline import ShardRenderer

# Short last shards and shards of one block: the block after the lost one may be the first of the next shard.
LAYOUTS = [(150, 100, 50), (200, 50, 50), (120, 40, 20)]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("data/*.tar"))}


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, error: BaseException, *, at_call: int) -> None:
    real, calls = getattr(owner, method), []

    def flaky(self: object, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == at_call:
            raise error
        return real(self, *arguments)

    monkeypatch.setattr(owner, method, flaky)


@pytest.mark.parametrize(("n", "shard_size", "batch_size"), LAYOUTS)
@pytest.mark.parametrize(
    ("owner", "method", "error"),
    [
        (ShardRenderer, "_forward", ValueError("the device ran out of memory")),
        (ShardRenderer, "_encode", RuntimeError("the codec gave up")),
        (ShardWriter, "_write", OSError(errno.ENOSPC, "no space left")),
    ],
)
def test_a_lost_block_is_never_papered_over(
    n: int, shard_size: int, batch_size: int, owner: type, method: str, error: Exception, tiny_weights, tmp_path
) -> None:
    settings = {"weights": tiny_weights, "dtype": "float32", "devices": "cpu", "quiet": True}
    sizes = {"n": n, "shard_size": shard_size, "batch_size": batch_size}
    synthgen.render(out=tmp_path / "whole", **sizes, **settings)
    expected = digests(tmp_path / "whole")
    at_calls = (2, 3) if owner is ShardRenderer else (batch_size + 7, shard_size + 3)
    for at_call in at_calls:
        out = tmp_path / f"{at_call}"
        with pytest.MonkeyPatch.context() as patch:
            fail_once(patch, owner, method, error, at_call=at_call)
            with pytest.raises(type(error), match=str(error.args[-1])):
                synthgen.render(out=out, **sizes, **settings)
        published = digests(out)
        assert len(published) < len(expected)
        assert published.items() <= expected.items()
        assert not list(out.glob("data/.*.tmp"))
        synthgen.render(out=out, **sizes, **settings)
        assert digests(out) == expected
        assert verify(out, quiet=True).ok
