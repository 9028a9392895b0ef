"""Parts of a page: sections of sentences, pictures and tables of the numbers behind them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NumberTable:
    """Table of a page. rows: [rows, len(head)] texts; the first column names the row."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """Drawing with its text alternative and the numbers behind it.

    key: unique in a page. wide, narrow: the same as SVG elements, for screens and for phones.
    """

    key: str
    title: str
    told: str
    wide: str
    narrow: str
    numbers: NumberTable


@dataclass(frozen=True)
class Section:
    """Section of a page. lines: sentences; without pictures they say what is missing."""

    key: str
    heading: str
    lines: tuple[str, ...]
    pictures: tuple[Picture, ...] = ()
    tables: tuple[NumberTable, ...] = ()
