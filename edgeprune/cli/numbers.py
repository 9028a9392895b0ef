"""Types of flags that take more than one number: several, a word instead, or a share in percent."""

from __future__ import annotations

from typing import Any

import click

from edgeprune.records.machine import drop_line


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Parses one number or several: "20,10,5" -> (20.0, 10.0, 5.0), or takes `word` as it is."""

    def __init__(self, word: str | None = None) -> None:
        self.word = word
        self.name = "X[,X...]" if word is None else f"X[,X...]|{word}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...] | str:
        if isinstance(value, tuple):
            return value
        if self.word is not None and str(value).strip() == self.word:
            return self.word
        found = []
        for part in str(value).split(","):
            try:
                found.append(float(part))
            except ValueError:
                self.fail(
                    f"{part.strip()!r} is not a number; write one, or several as in 20,10,5.", param, ctx
                )
        return tuple(found)


class WholeNumbers(click.ParamType):  # type: ignore[type-arg]
    """Parses one whole number or several: "128" -> 128, "32,128" -> (32, 128)."""

    name = "N[,N...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        if ":" in str(value):
            self.fail(
                f"{value!r} gives lengths shares, and no rule bounds the latency of a mix; write 32,128: the "
                "budget is then that of the longest.",
                param,
                ctx,
            )
        try:
            found = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no whole number; write one, or several as in 32,128.", param, ctx)
        return found if len(found) > 1 else found[0]


class LargestDrop(click.ParamType):  # type: ignore[type-arg]
    """Checks a number or a share: "0.5" or "2%" stays the text that it is."""

    name = "X|X%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            drop_line(value)
        except ValueError:
            self.fail(
                f"{value!r} is no largest drop; write a number of 0 or more, or a share as in 2%.", param, ctx
            )
        return str(value)
