"""The recipe id says what decides the pixels; the manifest says when it was altered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import DamageError, Manifest, Recipe, load_manifest
from shards.markers import read_marker
from shards.recipe import member_names

GOLDEN_ID = "905ded6d1f57b19c978c3d5131b285cee426bf1beb40d74038fdd82be44dff18"

MakeRecipe = Callable[..., Recipe]


def test_the_recipe_id_is_pinned(recipe: MakeRecipe) -> None:
    assert recipe().id == GOLDEN_ID


def test_equal_numbers_give_one_recipe_id(recipe: MakeRecipe) -> None:
    a = recipe(source={"truncation": 1.0, "generator": "g"})
    b = recipe(source={"generator": "g", "truncation": np.float64(1)})
    assert a.id == b.id
    assert a.difference(b) is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"source": {"generator": "smooth-noise", "truncation": 0.5}},
            "source.truncation: 1.0 in the folder, 0.5 asked for",
        ),
        ({"views": ({"policy": "gaussian", "std": 0.5},)}, "views.0.std: 0.3 in the folder, 0.5 asked for"),
        ({"seed": 1}, "seed: 0 in the folder, 1 asked for"),
        ({"classes": (3, 5)}, "classes: [3, 5, 8] in the folder, [3, 5] asked for"),
        ({"source": {"generator": "smooth-noise"}}, "source.truncation: 1.0 in the folder, nothing asked for"),
        ({"store_latents": True}, "store_latents: False in the folder, True asked for"),
    ],
)
def test_the_first_difference_is_named(recipe: MakeRecipe, changes: dict[str, Any], line: str) -> None:
    assert recipe().id != recipe(**changes).id
    assert recipe().difference(recipe(**changes)) == line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": (5, 3)}, "ascending"),
        ({"classes": (3, 3)}, "once"),
        ({"classes": (-1,)}, "from 0 on"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"source": {"truncation": float("nan")}}, "source.truncation: nan"),
        ({"image": {"size": 32, "format": "gif"}}, "jpg or png"),
        ({"image": {"size": 32, "format": "png", "quality": 95}}, "png has format, size"),
        ({"image": {"size": 0, "format": "png"}}, "size"),
        ({"image": {"size": 8, "format": "jpg", "quality": 101, "subsampling": "444"}}, "quality"),
        ({"image": {"size": 8, "format": "jpg", "quality": 95, "subsampling": "411"}}, "subsampling"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(recipe: MakeRecipe, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_a_recipe_cannot_be_changed_from_outside(recipe: MakeRecipe) -> None:
    source = {"generator": "g"}
    made = recipe(source=source)
    before = made.id
    source["generator"] = "h"
    made.to_json()["source"]["generator"] = "h"
    assert made.id == before


def test_members_come_in_one_order(recipe: MakeRecipe) -> None:
    views = ({"policy": "independent"},) * 2
    image = {"size": 8, "format": "png"}
    assert member_names(recipe(views=views, image=image, store_latents=True)) == (
        "anchor.png",
        "view0.png",
        "view1.png",
        "latents.npy",
        "json",
    )


def test_the_manifest_survives_the_round_trip(shared_dataset: Path) -> None:
    manifest = load_manifest(shared_dataset)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert (manifest.num_groups, manifest.shard_size, [shard.count for shard in manifest.shards]) == (10, 4, [4, 4, 2])
    assert manifest.class_names == {3: "cat", 5: "dog", 8: "ship"}


@pytest.mark.parametrize(
    "alter",
    [
        lambda data: data["recipe"].update(seed=1),
        lambda data: data.update(num_groups=11),
        lambda data: data["shards"].pop(),
        lambda data: data["shards"][0].update(name="other.tar"),
        lambda data: data.pop("render"),
        lambda data: data["recipe"].update(more=1),
    ],
)
def test_an_altered_manifest_is_damage(dataset: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((dataset / "manifest.json").read_text())
    alter(data)
    (dataset / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(DamageError, match="altered"):
        load_manifest(dataset)


WRONG_FIELDS = [
    ("bytes", None, "bytes is None, not a whole number from 0 on"),
    ("bytes", "20480", "bytes is 20480, not a whole number from 0 on"),
    ("bytes", [1], "bytes is [1], not a whole number from 0 on"),
    ("bytes", True, "bytes is True, not a whole number from 0 on"),
    ("bytes", -1, "bytes is -1, not a whole number from 0 on"),
    ("first", 0.0, "first is 0.0, not a whole number from 0 on"),
    ("sha256", None, "sha256 is None, not 64 digits of 0-9 and a-f"),
    ("sha256", ["0" * 64], "not 64 digits of 0-9 and a-f"),
    ("sha256", "../../x", "sha256 is ../../x, not 64 digits of 0-9 and a-f"),
    ("sha256", "A" * 64, "sha256 is AAAAAAAAAAAA…, not 64 digits of 0-9 and a-f"),
    ("sha256", "0" * 64 + "\n", "not 64 digits of 0-9 and a-f"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG_FIELDS)
def test_a_shard_s_line_of_another_type_is_damage_in_manifest_and_marker(
    dataset: Path, field: str, value: Any, message: str
) -> None:
    data = json.loads((dataset / "manifest.json").read_text())
    data["shards"][0][field] = value
    (dataset / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(DamageError, match=rf"altered \(ValueError: shard train-000000\.tar: .*{re.escape(message)}"):
        load_manifest(dataset)
    path = dataset / "data/train-000000.done.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(DamageError, match=rf"marker was altered .*{re.escape(message)}.*delete this file"):
        read_marker(dataset, 0)


def test_a_shard_s_line_may_hold_any_size_and_checksum(dataset: Path) -> None:
    data = json.loads((dataset / "manifest.json").read_text())
    data["shards"][0].update(bytes=0, sha256="0123456789abcdef" * 4)
    (dataset / "manifest.json").write_text(json.dumps(data))
    assert load_manifest(dataset).shards[0].bytes == 0


@pytest.mark.parametrize("value", [None, 12, ["a"], "0" * 64])
def test_a_recipe_id_of_another_type_is_damage_as_another_one_is(dataset: Path, value: Any) -> None:
    data = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps({**data, "recipe_id": value}))
    expected = "its id is .*, not 000000000000…" if isinstance(value, str) else "recipe_id is .*, not text"
    with pytest.raises(DamageError, match=expected):
        load_manifest(dataset)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_groups", 10.0, "num_groups is 10.0, not a whole number from 1 to 10^9"),
        ("num_groups", True, "num_groups is True, not a whole number from 1 to 10^9"),
        ("num_groups", "10", "num_groups is '10', not a whole number from 1 to 10^9"),
        ("shard_size", 4.0, "shard_size is 4.0, not a whole number from 1 on"),
        ("shard_size", 0, "shard_size is 0, not a whole number from 1 on"),
        ("class_names", {"3": 4}, "class_names.3 is 4, not text"),
        ("environments", [1], "environments.0 is 1, not a mapping"),
    ],
)
def test_a_field_of_another_type_is_named(dataset: Path, field: str, value: Any, message: str) -> None:
    data = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps({**data, field: value}))
    with pytest.raises(DamageError, match=rf"altered .*{re.escape(message)}"):
        load_manifest(dataset)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("index", "1", "index is 1, not a whole number"),
        ("seconds", "x", "seconds is x, not a number of seconds"),
        ("seconds", float("inf"), "seconds is inf, not a number of seconds"),
        ("seconds", float("nan"), "seconds is nan, not a number of seconds"),
        ("seconds", 10**400, "not a number of seconds"),
        ("stages", {"draw": None}, "stages.draw is None, not a number of seconds"),
        ("stages", [1.0], "stages is [1.0], not a mapping"),
        ("environment", [1], "environment is [1], not a mapping"),
        ("environment", {"cpu": float("nan")}, "environment.cpu: nan is not a finite number"),
        ("class_names", {"3": 4}, "class_names.3 is 4, not text"),
    ],
)
def test_a_marker_s_field_of_another_type_is_damage(dataset: Path, field: str, value: Any, message: str) -> None:
    path = dataset / "data/train-000001.done.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(DamageError, match=rf"^{path}: the marker was altered .*{re.escape(message)}.*delete this file"):
        read_marker(dataset, 1)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "\xff", '{"format": 1'])
def test_what_is_no_json_of_ours_is_damage(dataset: Path, text: str) -> None:
    for path in (dataset / "manifest.json", dataset / "data/train-000001.done.json"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(DamageError, match=rf"^{path}: it is not JSON.*; delete this file") as raised:
            load_manifest(dataset) if path.name == "manifest.json" else read_marker(dataset, 1)
        assert "set_int_max_str_digits" not in str(raised.value)


def test_mappings_in_one_another_are_damage_too(dataset: Path) -> None:
    """The parser takes them; whoever walks through them would not come back."""
    path = dataset / "data/train-000001.done.json"
    data = {**json.loads(path.read_text()), "environment": "?"}
    path.write_text(json.dumps(data).replace('"?"', '{"a":' * 700 + "1" + "}" * 700))
    with pytest.raises(DamageError, match=r"marker was altered \(RecursionError"):
        read_marker(dataset, 1)


def test_half_a_manifest_is_damage(dataset: Path) -> None:
    text = (dataset / "manifest.json").read_bytes()
    (dataset / "manifest.json").write_bytes(text[: len(text) // 2])
    with pytest.raises(DamageError, match="not JSON"):
        load_manifest(dataset)


def test_a_later_format_asks_for_an_update(dataset: Path) -> None:
    data = json.loads((dataset / "manifest.json").read_text())
    (dataset / "manifest.json").write_text(json.dumps({**data, "format": 2}))
    with pytest.raises(ValueError, match="update the package"):
        load_manifest(dataset)


def test_no_manifest_says_what_to_do(dataset: Path, tmp_path: Path) -> None:
    (dataset / "manifest.json").unlink()
    with pytest.raises(ValueError, match="run the same synthgen render"):
        load_manifest(dataset)
    with pytest.raises(ValueError, match="not a dataset"):
        load_manifest(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        load_manifest(tmp_path / "nowhere")
