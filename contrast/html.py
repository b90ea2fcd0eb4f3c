"""Pages that open from a file: the package's templates, and figures that lie inside them."""

from __future__ import annotations

import io
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fill_template(name: str, **values: Any) -> str:
    """The package's template of this name with its values, text escaped; a value that is missing raises."""
    import jinja2

    template = resources.files("contrast").joinpath(name).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(**values)


def svg_element(figure: Figure) -> str:
    """The figure as an SVG element, the same for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML prologue, which has no place inside HTML
