"""Lines of a model at which an export takes a size that may vary, the batch, for a number."""

from __future__ import annotations

import linecache
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_STDLIB, _TORCH = sysconfig.get_path("stdlib"), str(Path(torch.__file__).parent)
_HOOK = "_set_replacement"  # of torch's ShapeEnv: a size becomes another, or a number
_OWN = str(Path(__file__).parents[1])


@contextmanager
def fixed_sizes() -> Iterator[list[str]]:
    """Context of an export; the list gets the place of each size that became a number, in order.

    torch (2.13) reports the size and not the line.
    """
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    found: list[str] = []
    before = getattr(ShapeEnv, _HOOK, None)
    if before is None:  # it is nobody's promise: another torch tells no lines
        yield found
        return

    def told(self: ShapeEnv, symbol: Any, size: Any, message: str) -> None:
        if size.is_number:
            frames = traceback.extract_stack()[:-1]  # without this one
            found.append(place((frame.filename, frame.lineno or 0) for frame in frames))
        before(self, symbol, size, message)

    setattr(ShapeEnv, _HOOK, told)
    try:
        yield found
    finally:
        setattr(ShapeEnv, _HOOK, before)


def place(frames: Iterable[tuple[str, int]]) -> str:
    """` (FILE, line N: CODE)` of the deepest frame that is the user's, and of a library's below that.

    frames: (file, line), the outermost first. Those around edgeprune's own called it, and made nothing.
    "" where all others are the standard library's and torch's.
    """
    own = library = ""
    for file, line in frames:
        installed = "site-packages" in file
        if file.startswith(_OWN):
            own = library = ""
        elif not file.startswith((_TORCH, "<")) and (installed or not file.startswith(_STDLIB)):
            told = f"{file}, line {line}: {linecache.getline(file, line).strip()}"
            own, library = (own, told) if installed else (told, "")
    return f" ({'; in '.join(filter(None, (own, library)))})" if own or library else ""
