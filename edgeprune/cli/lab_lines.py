"""Lines about the devices of a lab: one each while they are at work, and one about all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.records.bundle import Validation
    from edgeprune.records.progress import Event

_SAID = {
    "misses": "misses",
    "inconclusive": "is inconclusive",
    "failed": "failed",
    "unreachable": "is unreachable",
}


@contextmanager
def lines(names: Iterable[str]) -> Iterator[Callable[[str, Event | None], None]]:
    """Context in which each device has a line on stderr; without a terminal, as it begins and as it ends."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from edgeprune.cli.output import console

    screen = console()
    columns = (
        TextColumn("{task.fields[device]}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        tasks = {
            name: bars.add_task("waiting for its machine", total=1.0, start=False, device=name)
            for name in names
        }

        def listen(name: str, event: Event | None) -> None:
            doing, share = (
                ("checking the device", 0.0) if event is None else (event.doing, event.share or 0.0)
            )
            if event is None:
                bars.start_task(tasks[name])
            bars.update(tasks[name], description=doing, completed=share)
            if bars.disable and (event is None or event.lasting):
                screen.print(f"{name}: {doing}", markup=False)

        yield listen


def summary(found: Sequence[Validation]) -> str:
    """Count of the devices that fit, and words about the others."""
    fit = sum(validation.word == "fits" for validation in found)
    others = [f"{each.device} {_SAID[each.word]}" for each in found if each.word != "fits"]
    count = f"{fit} of {len(found)} {'fits' if fit == len(found) == 1 else 'fit'}"
    return f"{count}: {', '.join(others)}" if others else count
