"""The files that let strangers' tools read a dataset: its card, its checksums, and timm's table of shards.

Each is a function of the manifest alone, byte for byte.

    (folder / "README.md").write_text(card_text(manifest))
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from shards.canonical import canonical_json
from shards.manifest import DATA_FOLDER, MANIFEST_NAME, Manifest, manifest_bytes
from shards.quantities import format_bytes, format_count, format_things
from shards.recipe import member_names

CARD_NAME = "README.md"
CHECKSUMS_NAME = "SHA256SUMS"
TIMM_INFO_NAME = "_info.json"

_SIZE_CATEGORIES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)


def nested_sizes(manifest: Manifest) -> list[int]:
    """The powers of ten, from 1,000 on, that are prefixes of whole shards."""
    sizes = [10**power for power in range(3, 10)]
    return [size for size in sizes if size <= manifest.num_groups and size % manifest.shard_size == 0]


def checksums_text(manifest: Manifest) -> str:
    """SHA256SUMS for `sha256sum -c`, run in the dataset's folder: every tar, and the manifest."""
    lines = [f"{shard.sha256}  {DATA_FOLDER}/{shard.name}" for shard in manifest.shards]
    lines.append(f"{hashlib.sha256(manifest_bytes(manifest)).hexdigest()}  {MANIFEST_NAME}")
    return "\n".join(lines) + "\n"


def vouches_for_manifest(directory: Path) -> bool:
    """Whether SHA256SUMS holds the checksum that the folder's manifest has: then neither was altered."""
    try:
        lines = (directory / CHECKSUMS_NAME).read_bytes().splitlines()
        digest = hashlib.sha256((directory / MANIFEST_NAME).read_bytes()).hexdigest()
    except FileNotFoundError:
        return False
    return f"{digest}  {MANIFEST_NAME}".encode() in lines


def timm_info_text(manifest: Manifest) -> str:
    """_info.json as timm's WebDataset reader takes it; alt_label names the class id's field in the groups' json."""
    split = {
        "name": "train",
        "num_samples": manifest.num_groups,
        "filenames": [f"{DATA_FOLDER}/{shard.name}" for shard in manifest.shards],
        "shard_lengths": [shard.count for shard in manifest.shards],
        "alt_label": "label",
    }
    return json.dumps({"splits": {"train": split}}, indent=1) + "\n"


def card_text(manifest: Manifest) -> str:
    """The dataset card: front matter with one config per nested subset, and how to read the data."""
    return f"---\n{_front_matter(manifest)}---\n\n{_body(manifest)}"


def _front_matter(manifest: Manifest) -> str:
    category = next((name for bound, name in _SIZE_CATEGORIES if manifest.num_groups < bound), "n>1T")
    kind = [] if manifest.recipe.is_real else ["- synthetic"]
    lines = ["tags:", *kind, "- webdataset", "- contrastive-learning", "size_categories:", f"- {category}"]
    lines += ["configs:", "- config_name: default", "  default: true"]
    lines += ["  data_files:", "  - split: train", f"    path: {DATA_FOLDER}/train-*.tar"]
    for size in nested_sizes(manifest):
        lines += [f"- config_name: n{format_count(size)}", "  data_files:", "  - split: train", "    path:"]
        lines += [f"    - {DATA_FOLDER}/{shard.name}" for shard in manifest.shards[: size // manifest.shard_size]]
    return "\n".join(lines) + "\n"


def _body(manifest: Manifest) -> str:
    recipe = manifest.recipe
    members = "\n".join(f"    000000042.{name}" for name in member_names(recipe))
    facts = [
        ("groups", f"{manifest.num_groups:,}"),
        (
            "images",
            f"{manifest.num_groups * manifest.num_images:,} "
            f"(one anchor and {format_things(recipe.num_views, 'view') if recipe.views else 'no views'} per group)",
        ),
        ("size", f"{format_bytes(manifest.total_bytes)} in {_shards(manifest)}"),
        ("source", f"`{canonical_json(recipe.source)}`"),
        ("classes", f"{len(recipe.classes)}" if recipe.classes else "unlabelled"),
        *((f"view {number}", f"`{canonical_json(view)}`") for number, view in enumerate(recipe.views)),
        ("seed", f"{recipe.seed}"),
        ("image", f"`{canonical_json(recipe.image)}`"),
        ("render", f"`{canonical_json(manifest.render.to_json())}`"),
        ("recipe id", f"`{recipe.id}`"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in facts)
    names = ", ".join(f"`n{format_count(size)}`" for size in nested_sizes(manifest))
    subsets = f", with subsets by name ({names})" if names else ""
    return f"""# {recipe.source.get("generator", "Images")}: {format_count(manifest.num_groups)} groups of images

A *group* is one anchor image and its views, further images of the same content. Group i is a function of the recipe and
of i alone: every prefix is a dataset of its own, and a larger dataset of the same recipe begins with this one.

| | |
|---|---|
{table}

## Layout

`data/train-000000.tar` holds groups 0 to {manifest.shard_size - 1}, and so on; every group has the same members:

{members}

The json holds `index`, `label`, `class_name` and `views`, the parameters of every view. Beside each tar lie the offsets
of its members (`.index.npy`) and its completion marker (`.done.json`).

## Reading

Random access, and exact prefixes of any length:

    from shards import GroupDataset
    images, labels = GroupDataset("DIR", n=1000).batch(range(64))

Hugging Face `datasets`{subsets}:

    from datasets import load_dataset
    load_dataset("DIR", split="train")

WebDataset, or any tar reader:

    import webdataset
    webdataset.WebDataset("DIR/data/train-000000.tar", shardshuffle=False)

timm, on the anchors (decoded images are always called jpg there, hence the second name):

    from timm.data import create_dataset
    create_dataset("wds/", root="DIR", split="train", input_key="anchor.{recipe.image["format"]};jpg")

## Checking

`shards verify DIR`, or without any of our code `sha256sum -c SHA256SUMS`.
"""


def _shards(manifest: Manifest) -> str:
    if len(manifest.shards) == 1:
        return "1 shard"
    return f"{len(manifest.shards):,} shards of {format_things(manifest.shard_size, 'group')}"
