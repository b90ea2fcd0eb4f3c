"""Weights, or the configuration beside them, that change on the disk: before, while, and after they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from synthgen.pipeline import ShardRenderer
from tests.synthgen.small_renders import assert_same, assert_whole_shards_only, refused, run


def test_weights_changed_between_start_and_resume(
    tiny_weights: Path, whole: Path, network_maker: Callable, package_layout: Callable, tmp_path: Path
) -> None:
    weights, out = Path(shutil.copytree(tiny_weights, tmp_path / "weights")), tmp_path / "d"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        refused(run(out, weights), exit_code=130)
    done = assert_whole_shards_only(out)
    package_layout(weights, network_maker(seed=1))
    refused(run(out, weights), f"{out} holds another dataset: source.weights_sha256: ", "choose another folder")
    assert assert_whole_shards_only(out) == done
    shutil.copytree(tiny_weights, weights, dirs_exist_ok=True)
    assert run(out, weights).exit_code == 0
    assert_same(out, whole)


def test_configuration_changed_between_start_and_resume(tiny_weights: Path, tmp_path: Path) -> None:
    weights, out = Path(shutil.copytree(tiny_weights, tmp_path / "weights")), tmp_path / "d"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3)
        refused(run(out, weights), exit_code=130)
    path = weights / "biggan-deep-32.json"
    path.write_text(path.read_text().replace('"eps": 0.0001', '"eps": 0.01'))
    refused(run(out, weights), f"{out} holds another dataset: source.config_sha256: ", "choose another folder")


def stop_after(patch: pytest.MonkeyPatch, num_advances: int) -> None:
    advances = iter(range(1, 1000))

    def interrupt(*rest: object, **named: object) -> None:
        if next(advances) == num_advances:
            raise KeyboardInterrupt

    patch.setattr("synthgen.runners.local.Progress.advance", interrupt)


def test_weights_changed_while_the_job_runs(
    tiny_weights: Path,
    whole: Path,
    network_maker: Callable,
    package_layout: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are read once, before the first pass."""
    weights, calls = Path(shutil.copytree(tiny_weights, tmp_path / "weights")), []
    real = ShardRenderer._forward

    def forward(*rest: object) -> object:
        if not calls:
            package_layout(weights, network_maker(seed=1))
        calls.append(1)
        return real(*rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardRenderer, "_forward", forward)
    assert run(tmp_path / "d", weights).exit_code == 0
    assert len(calls) == 12
    assert_same(tmp_path / "d", whole)


@pytest.mark.parametrize(("promised", "words"), [(True, "put the original file back"), (False, "changed while it was")])
def test_weights_changed_while_they_are_loaded(
    tiny_weights: Path, network_maker: Callable, package_layout: Callable, tmp_path: Path, promised: bool, words: str
) -> None:
    """What was hashed and what was loaded would be two different things, whether or not a file beside them says so."""
    weights = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    card = weights / "biggan-deep-32.json"
    if not promised:
        card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": None}))
    with pytest.MonkeyPatch.context() as patch:
        import synthgen.adapters.biggan as biggan

        real = biggan.load_network

        def load(files: object) -> object:
            package_layout(weights, network_maker(seed=1))
            return real(files)  # type: ignore[arg-type]

        patch.setattr(biggan, "load_network", load)
        refused(run(tmp_path / "d", weights), "biggan-deep-32.safetensors", words)
    assert not (tmp_path / "d").exists()
