"""How far many workers are, read from what they leave on the disk: one progress line for all of them together.

follower = Follower(folder, shards, progress)
while not follower.is_done:
    follower.update()
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from shards.claims import is_done, read_claims
from shards.manifest import DATA_FOLDER
from shards.markers import marker_path
from shards.progress import Progress
from shards.quantities import format_things
from synthgen.pipeline import slowest_stage
from synthgen.plan import ShardPlan


class Follower:
    """Passes on to `progress` what workers anywhere have written of the shards."""

    def __init__(self, directory: Path, shards: Sequence[ShardPlan], progress: Progress) -> None:
        self._directory, self._progress = directory, progress
        self._left = {shard.index: shard for shard in shards}
        self._groups_done = self._groups_shown = 0
        self.stage_shares: dict[str, float] = {}

    @property
    def is_done(self) -> bool:
        """Whether every shard was published at the last update."""
        return not self._left

    def update(self) -> None:
        """Looks at markers and claims; what a lost worker had written of a shard is taken back."""
        claims = [claim for claim in read_claims(self._directory) if claim.index in self._left and not claim.is_void]
        names = set(os.listdir(self._directory / DATA_FOLDER)) if (self._directory / DATA_FOLDER).is_dir() else set()
        for shard in list(self._left.values()):
            if marker_path(self._directory, shard.index).name in names and is_done(
                self._directory, shard.index, shard.count
            ):
                del self._left[shard.index]
                self._groups_done += shard.count
        groups = self._groups_done + sum(claim.groups_written for claim in claims if claim.index in self._left)
        fields: dict[str, object] = {}
        workers = {(claim.host, claim.pid): claim.stages for claim in claims if claim.stages}
        if workers:
            stages = next(iter(workers.values()))
            self.stage_shares = {
                stage: sum(shares.get(stage, 0.0) for shares in workers.values()) / len(workers) for stage in stages
            }
            fields = {"on": format_things(len(workers), "worker"), "slowest": slowest_stage(self.stage_shares)}
        self._progress.advance(groups - self._groups_shown, **fields)
        self._groups_shown = groups
