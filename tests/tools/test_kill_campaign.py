"""The campaign of kills, at a size for every day; its own checks can fail."""

from __future__ import annotations

import kill_campaign
import pytest
from click.testing import CliRunner

from shards.manifest import MANIFEST_NAME
from shards.markers import scan_markers


def test_a_killed_render_ends_with_the_same_bytes(tmp_path) -> None:
    options = ["--n", "120", "--prefix", "40", "--kills", "1", "--shard-size", "20", "--work", str(tmp_path)]
    result = CliRunner().invoke(kill_campaign.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("identical") == 2
    assert "DIFFERENT" not in result.stdout


def test_a_shard_that_is_not_what_its_marker_says_is_noticed(tmp_path) -> None:
    import synthgen

    synthgen.render(n=20, out=tmp_path / "d", shard_size=10, devices="cpu", quiet=True)
    with pytest.raises(AssertionError, match="a manifest after a kill"):
        kill_campaign.check_between(tmp_path / "d")
    (tmp_path / "d" / MANIFEST_NAME).unlink()
    assert kill_campaign.check_between(tmp_path / "d") == len(scan_markers(tmp_path / "d")) == 2
    before = kill_campaign.digests(tmp_path / "d")
    tar = tmp_path / "d" / "data" / "train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(AssertionError, match="not what its marker says"):
        kill_campaign.check_between(tmp_path / "d")
    after = kill_campaign.digests(tmp_path / "d")
    assert before != after
    assert kill_campaign.digests(tmp_path / "d", num_shards=1) == {
        name: digest for name, digest in before.items() if "000000" in name
    }


def test_a_prefix_of_no_whole_shards_is_refused() -> None:
    result = CliRunner().invoke(kill_campaign.main, ["--n", "120", "--prefix", "30", "--shard-size", "20"])
    assert result.exit_code == 2
    assert "--prefix 30" in result.stderr
