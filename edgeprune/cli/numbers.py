"""The type of a flag that takes one number or several, separated by commas."""

from __future__ import annotations

from typing import Any

import click


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Parses one number or several: "20,10,5" -> (20.0, 10.0, 5.0)."""

    name = "X[,X...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        found = []
        for part in str(value).split(","):
            try:
                found.append(float(part))
            except ValueError:
                self.fail(
                    f"{part.strip()!r} is not a number; write one, or several as in 20,10,5.", param, ctx
                )
        return tuple(found)
