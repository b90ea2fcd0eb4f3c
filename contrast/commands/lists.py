"""Command-line types of values with commas between them.

@click.option("--k", type=Counts())          # 1,10,2k -> (1, 10, 2000)
@click.option("--scores", type=Names())      # knn,linear -> ("knn", "linear")
"""

from __future__ import annotations

from typing import Any

import click

from shards.quantities import parse_count


class Names(click.ParamType):
    """Words with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = tuple(word.strip() for word in str(value).split(","))
        if not all(words):
            self.fail(f"'{value}': write names with commas between them, such as knn,linear", param, ctx)
        return words


class Counts(click.ParamType):
    """Counts above zero with commas between them, each as people write it."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(parse_count(word) for word in str(value).split(","))
        except ValueError as error:
            self.fail(str(error), param, ctx)
