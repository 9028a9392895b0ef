"""A representation of a record that fits a few lines, however much the record holds."""

from __future__ import annotations

import reprlib
from dataclasses import fields
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxother, _SHORT.maxstring = 2, 100, 100
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 3


class Brief:
    """Base of the dataclasses whose fields can be long: each field is cut to a glance.

    A subclass says `repr=False` to `dataclass`, which would write a representation of its own.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(self._shown, fields(self)))})"  # type: ignore[arg-type]

    def _shown(self, field: Any) -> str:
        value = getattr(self, field.name)
        rows = getattr(value, "shape", None)
        text = f"<{type(value).__name__} {tuple(rows)}>" if rows is not None else _SHORT.repr(value)
        return f"{field.name}={text}"
