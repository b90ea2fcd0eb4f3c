"""A comparison of runs as a file: a page, a table for Markdown or for programs, or a figure.

write_comparison(comparison, Path("comparison.html"))
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from contrast.comparison import Comparison, short_name
from contrast.curves import draw_comparison
from contrast.html import fill_template, svg_element
from shards.atomic import write_atomically


def check_out(out: Path) -> None:
    """Raises ValueError where no comparison can be written to a file of this name."""
    if out.suffix not in WRITERS:
        raise ValueError(f"--out {out}: give a file name that ends in {', '.join(WRITERS)}")


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Writes table and figure as a page (.html), the table (.md), every score (.csv) or the figure alone (.png).

    Raises:
        ValueError: the file's name ends in something else, or there is nothing to draw.
    """
    check_out(out)
    data = WRITERS[out.suffix](comparison)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, data)
    return out


def _page(comparison: Comparison) -> bytes:
    heads, rows = comparison.table()
    is_drawn = comparison.over is not None or any(run.metrics for run in comparison.runs)
    page = fill_template(
        "comparison.html",
        title=f"{len(comparison.runs)} runs compared",
        heads=heads,
        rows=rows,
        remarks=comparison.remarks(),
        curves_svg=svg_element(draw_comparison(comparison)) if is_drawn else "",
    )
    return page.encode()


def _markdown(comparison: Comparison) -> bytes:
    heads, rows = comparison.table()
    lines = [heads, ["---"] * len(heads), *rows]
    table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return (table + "".join(f"\n{remark}\n" for remark in comparison.remarks())).encode()


def _csv(comparison: Comparison) -> bytes:
    """A line per run, source, score and row: trained encoder, untrained one, pixels."""
    sources = comparison.sources
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", *map(short_name, comparison.differing), "source", "score", "row", "value"])
    for run in comparison.runs:
        settings = [run.settings.get(name) for name in comparison.differing]
        for (source, head, row), cell in run.scores.items():
            writer.writerow([run.run, *settings, sources[source], head, row, cell.value])
    return buffer.getvalue().encode()


def _png(comparison: Comparison) -> bytes:
    buffer = io.BytesIO()
    draw_comparison(comparison).savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[Comparison], bytes]] = {".html": _page, ".md": _markdown, ".csv": _csv, ".png": _png}
