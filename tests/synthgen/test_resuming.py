"""A second run: what it takes from the folder, what it puts back, and what it leaves for last."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shards.manifest import manifest_bytes
from shards.verification import verify
from shards.work import WorkPlan, begin_work
from synthgen.config import RenderConfig
from synthgen.job import prepare_job, survey_folder
from synthgen.pipeline import ShardRenderer


def test_a_second_run_renders_nothing(render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = render(100, tmp_path / "d")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    monkeypatch.setattr(ShardRenderer, "run", lambda *args, **kwargs: pytest.fail("rendered again"))
    assert render(100, tmp_path / "d") == manifest
    assert render(40, tmp_path / "d") == manifest, "a prefix is there already"
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


@pytest.mark.parametrize("name", ["README.md", "SHA256SUMS", "_info.json", "manifest.json"])
def test_a_second_run_puts_back_the_files_beside_the_shards(
    render, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = render(40, tmp_path / "d")
    original = (tmp_path / "d" / name).read_bytes()
    altered = {"SHA256SUMS": original + b"x\n", "manifest.json": original.replace(b'"plane"', b'"plain"')}.get(name)
    if altered is None:
        (tmp_path / "d" / name).unlink()
    else:
        assert altered != original
        (tmp_path / "d" / name).write_bytes(altered)
    assert not verify(tmp_path / "d").ok
    assert render(40, tmp_path / "d", quiet=False) == manifest
    said = capsys.readouterr().err
    assert "is complete, nothing to render: 40 groups in 1 shard\n" in said and said.endswith(
        f"lost or altered: {name}\n"
    ), "and no progress"
    assert (tmp_path / "d" / name).read_bytes() == original
    assert verify(tmp_path / "d").ok


def test_a_manifest_from_before_a_shard_was_rendered_anew_is_written_again(render, tmp_path: Path) -> None:
    """Shard 1 was lost and came back from another device, and the job was killed before it wrote the manifest."""
    manifest = render(200, tmp_path / "d")
    before = replace(manifest, shards=(manifest.shards[0], replace(manifest.shards[1], sha256="0" * 64)))
    (tmp_path / "d/manifest.json").write_bytes(manifest_bytes(before))
    assert render(200, tmp_path / "d") == manifest
    assert verify(tmp_path / "d").ok


def test_settings_that_decide_bytes_are_taken_from_the_folder(render, tmp_path: Path) -> None:
    render(60, tmp_path / "d", shard_size=30, batch_size=10)
    manifest = render(90, tmp_path / "d", shard_size=None, batch_size=None, dtype="auto")
    assert (manifest.render.batch_size, manifest.render.dtype, manifest.shard_size) == (10, "float32", 30)
    # Also where no manifest was written yet.
    (tmp_path / "d" / "manifest.json").unlink()
    assert render(90, tmp_path / "d", shard_size=None, batch_size=None, dtype="auto") == manifest


def test_an_unfinished_folder_of_one_shard_remembers_its_shard_size(render, tmp_path: Path) -> None:
    """As a job leaves it that was killed in its second shard: with a plan, and without a manifest."""
    manifest = render(30, tmp_path / "d", shard_size=30)
    (tmp_path / "d/manifest.json").unlink()
    plan = WorkPlan(recipe_id=manifest.recipe.id, render=manifest.render, num_groups=90, shard_size=30)
    begin_work(tmp_path / "d", plan)
    assert render(90, tmp_path / "d", shard_size=None).shard_size == 30


def test_readers_of_a_smaller_dataset_lose_its_end_last(render, tiny_weights: Path, tmp_path: Path) -> None:
    render(130, tmp_path / "d")
    (tmp_path / "d/data/train-000000.tar").unlink()
    job = prepare_job(RenderConfig(n=450, out=tmp_path / "d", weights=tiny_weights, devices="cpu"))
    assert [shard.index for shard in survey_folder(job).missing] == [0, 2, 3, 4, 1]


@pytest.mark.parametrize("index", [0, 1])
def test_markers_of_another_machine_are_noticed(
    render, tmp_path: Path, capsys: pytest.CaptureFixture[str], index: int
) -> None:
    render(200, tmp_path / "d")
    marker = tmp_path / "d" / "data" / f"train-{index:06d}.done.json"
    data = json.loads(marker.read_text())
    data["environment"]["device"] = "Abacus 3000"
    marker.write_text(json.dumps(data))
    render(300, tmp_path / "d", quiet=False)
    said = capsys.readouterr().err
    assert "resuming: 2 of 3 shards are done" in said
    assert "may differ in their last bits from the old ones (device: Abacus 3000 in the folder, cpu here)" in said
    assert "100%" in said and "slowest" in said
