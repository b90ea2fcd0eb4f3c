"""A contact sheet: what a dataset looks like, one row per group, the anchor first and its views beside it.

preview("datasets/demo", out="sheet.png", groups=12)

`draw_rows` draws any table of images in the same look.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shards.atomic import write_atomically
from shards.canonical import JSON
from shards.dataset import Group, GroupDataset
from shards.quantities import format_count

_PAPER = (250, 249, 246)
_INK = (33, 37, 41)
_FAINT = (134, 142, 150)
_RULE = (222, 226, 230)

_MARGIN = 28
_GAP = 6
_WIDE_GAP = 8  # more between the anchor and its views
_LABEL_WIDTH = 148
_BLOCK_GAP = 36
_TARGET_PIXELS = 112  # an image on the sheet is at least about this wide
_LARGEST_PIXELS = 40_000  # a side of the sheet


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Blocks of rows side by side, so that two narrow columns of images do not make a ribbon."""

    rows: int
    blocks: int
    num_images: int
    cell: int
    wide_before: tuple[int, ...]

    @property
    def block_width(self) -> int:
        return _LABEL_WIDTH + self._offset(self.num_images - 1) + self.cell

    @property
    def size(self) -> tuple[int, int]:
        width = 2 * _MARGIN + self.blocks * (self.block_width + _BLOCK_GAP) - _BLOCK_GAP
        return width, self.top + self.rows * (self.cell + _GAP) - _GAP + _MARGIN

    @property
    def top(self) -> int:
        return _MARGIN + 92

    def corner(self, number: int, column: int) -> tuple[int, int]:
        """Upper left of an image of the number-th group on the sheet."""
        block, row = divmod(number, self.rows)
        left = _MARGIN + block * (self.block_width + _BLOCK_GAP) + _LABEL_WIDTH
        return left + self._offset(column), self.top + row * (self.cell + _GAP)

    def _offset(self, column: int) -> int:
        return column * (self.cell + _GAP) + _WIDE_GAP * sum(wide <= column for wide in self.wide_before)


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A row of a sheet: what is written before it, and its images, one per column."""

    name: str
    detail: str
    images: Sequence[np.ndarray]
    """uint8 [H, W, 3], all of one size."""


def preview(
    directory: str | Path, *, out: str | Path, groups: int = 12, first: int = 0, scale: int | None = None
) -> Path:
    """Draws a contact sheet of consecutive groups and writes it as PNG.

    Args:
        groups: rows; fewer where the dataset ends.
        first: index of the first group.
        scale: whole-number enlargement of every image; chosen so that small images can be seen when None.

    Raises:
        ValueError: no finished dataset, no such groups, a sheet too large, or a file name that is not a .png.
        DamageError: an image does not decode.
    """
    out = check_sheet_path(out)
    dataset = GroupDataset(directory)
    if not 0 <= first < len(dataset):
        raise ValueError(f"--first {first}: {directory} holds groups 0 to {len(dataset) - 1}")
    if groups < 1 or (scale is not None and scale < 1):
        raise ValueError(f"--groups {groups}, --scale {scale}: give whole numbers above 0")
    rows = [dataset[index] for index in range(first, min(first + groups, len(dataset)))]
    return write_sheet(out, draw_sheet(dataset, rows, scale))


def check_sheet_path(out: str | Path) -> Path:
    """The path of a sheet to be written.

    Raises:
        ValueError: not a .png, or a folder that is not there.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: give a file name that ends in .png")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it or choose another")
    return out


def write_sheet(out: Path, sheet: Image.Image) -> Path:
    """Writes a sheet as PNG, whole or not at all."""
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(out, buffer.getvalue())
    return out


def draw_sheet(dataset: GroupDataset, groups: list[Group], scale: int | None) -> Image.Image:
    """The sheet of a dataset as an image: title, column heads, and a row per group."""
    recipe = dataset.manifest.recipe
    return draw_rows(
        title=str(recipe.source.get("generator", PurePosixPath(dataset.location).name)),
        facts=[f"{format_count(len(dataset))} groups", f"{dataset.image_size} px", f"recipe {recipe.id[:12]}"],
        heads=[("anchor", ""), *((f"view {number}", _describe(view)) for number, view in enumerate(recipe.views))],
        rows=[
            SheetRow(name=group.class_name or "unlabelled", detail=f"group {group.index}", images=list(group.images))
            for group in groups
        ],
        scale=scale,
        fewer="--groups",
    )


def draw_rows(
    *,
    title: str,
    facts: Sequence[str],
    heads: Sequence[tuple[str, str]],
    rows: Sequence[SheetRow],
    scale: int | None = None,
    wide_before: tuple[int, ...] = (1,),
    together: int = 1,
    fewer: str,
) -> Image.Image:
    """A table of images: title and facts, a head (name, detail) over each column, and the rows, in blocks side by side.

    Args:
        scale: whole-number enlargement of every image; chosen so that small images can be seen when None.
        wide_before: columns that stand a little off the one before them.
        together: so many rows stay below one another.
        fewer: the option that makes the sheet smaller, for the message.

    Raises:
        ValueError: the sheet would be too large.
    """
    image_size = rows[0].images[0].shape[0]
    scale = scale or max(1, -(-_TARGET_PIXELS // image_size))
    layout = _choose_layout(len(rows), len(heads), image_size * scale, wide_before, together)
    if max(layout.size) > _LARGEST_PIXELS:
        raise ValueError(f"the sheet would have {layout.size[0]}x{layout.size[1]} pixels: ask for fewer {fewer}")
    sheet = Image.new("RGB", layout.size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_title(draw, title, facts, heads, layout)
    for number, row in enumerate(rows):
        left, top = layout.corner(number, 0)
        text_left = left - _LABEL_WIDTH
        middle = top + layout.cell // 2
        draw.text((text_left, middle - 2), _fit(row.name, 17, _LABEL_WIDTH - 12), _INK, _font(17), anchor="ls")
        draw.text((text_left, middle + 6), _fit(row.detail, 13, _LABEL_WIDTH - 12), _FAINT, _font(13), anchor="lt")
        for column, pixels in enumerate(row.images):
            sheet.paste(_enlarge(pixels, layout.cell), layout.corner(number, column))
    return sheet


def _choose_layout(count: int, num_images: int, cell: int, wide_before: tuple[int, ...], together: int = 1) -> _Layout:
    """The fewest blocks that make the sheet no taller than one and a half times its width."""
    bundles = count // together
    heights = dict.fromkeys(-(-bundles // blocks) * together for blocks in range(1, bundles + 1))
    layouts = [
        _Layout(rows=rows, blocks=-(-count // rows), num_images=num_images, cell=cell, wide_before=wide_before)
        for rows in heights
    ]
    return next((layout for layout in layouts if layout.size[1] <= 1.5 * layout.size[0]), layouts[-1])


def _draw_title(
    draw: ImageDraw.ImageDraw, title: str, facts: Sequence[str], heads: Sequence[tuple[str, str]], layout: _Layout
) -> None:
    width = layout.size[0] - 2 * _MARGIN
    draw.text((_MARGIN, _MARGIN + 18), _fit(title, 22, width), _INK, _font(22), anchor="ls")
    draw.text((_MARGIN, _MARGIN + 40), _fit("  ·  ".join(facts), 14, width), _FAINT, _font(14), anchor="ls")
    for block in range(layout.blocks):
        for column, (head, detail) in enumerate(heads):
            left, top = layout.corner(block * layout.rows, column)
            draw.text((left, top - 27), _fit(head, 14, layout.cell), _INK, _font(14), anchor="ls")
            draw.text((left, top - 11), _fit(detail, 12, layout.cell), _FAINT, _font(12), anchor="ls")
        left, top = layout.corner(block * layout.rows, 0)
        draw.line((left - _LABEL_WIDTH, top - 6, left - _LABEL_WIDTH + layout.block_width - 1, top - 6), _RULE)


def _describe(view: Mapping[str, JSON]) -> str:
    if "components" in view:
        return f"{view.get('policy')} of {', '.join(str(part.get('policy')) for part in view['components'])}"
    parameters = [(name, value) for name, value in view.items() if name != "policy" and not name.endswith("_sha256")]
    values = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {_listed(value)}" for name, value in parameters
    ]
    return ", ".join([str(view.get("policy", "")), *values]).strip(", ")


def _listed(value: JSON) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _enlarge(pixels: np.ndarray, size: int) -> Image.Image:
    # Bicubic shows the content of a 32 px image; nearest would show its grid.
    image = Image.fromarray(pixels)
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fit(text: str, font_size: int, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    font = _font(font_size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text.rstrip(' ,')}…"
