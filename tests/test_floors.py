"""A room imports lower floors and itself: never a neighbour, never upwards.

Every import counts: inside functions, under TYPE_CHECKING, relative or not. A room without a floor fails,
so whoever adds one decides where it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgeprune

# Room -> floor. A room is a module or a folder directly under edgeprune/.
FLOORS = {
    "errors": 0,
    "environment": 0,
    "telemetry": 0,
    "foreign": 0,
    "records": 1,
    "files": 1,
    "run_folder": 2,
    "toml": 1,
    "limits": 1,
    "chain": 2,
    "ledger": 3,
    "quiet": 1,
    "detect": 2,
    "graph": 2,
    "meaning": 2.2,  # reads the captured graph, and is asked by all that compare outputs
    "translate": 2.2,  # its modules are captured, and become tasks
    "runtimes": 2,
    "search": 2,
    "shelf": 2.7,  # reads what detect found, and holds sensors against the probe of devices
    "devices": 2.5,  # carries a runtime's session file to the device
    "pruning": 3,
    "recover": 3,
    "quantize": 3,
    "export": 3,
    "ir": 3,
    "tasks": 2.5,  # pruning reads the same data
    "results": 4,
    "make": 4,
    "measure": 4,
    "latency": 4,
    "options": 4,
    "bundle": 4,
    "fitting": 5,
    "validating": 5,
    "lab_validation": 5.2,
    "report": 5,
    "cli": 6,
    "__main__": 7,
}
# `edgeprune/__init__.py` may import every room, lazily; from it only the version may be imported below cli.
FACE = "__init__"
OPEN = frozenset({"__version__"})


def room_of(path: Path, package: Path) -> str:
    """The room a file belongs to: "graph" for graph/rules.py, "shelf" for shelf.py."""
    return path.relative_to(package).with_suffix("").parts[0]


def imports(path: Path, package: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, dotted name below edgeprune) of everything a file imports from edgeprune."""
    here = ("edgeprune", *path.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = tuple(alias.name.split("."))
                if parts[0] == "edgeprune":
                    yield node.lineno, parts[1:]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            parts = (*base, *(node.module.split(".") if node.module else ()))
            if parts and parts[0] == "edgeprune":
                for alias in node.names:
                    yield node.lineno, (*parts[1:], alias.name)


def violations(package: Path) -> list[str]:
    """One sentence for each import that the floors forbid, and for each room that has none."""
    rooms = {room_of(path, package) for path in package.rglob("*.py")} - {FACE}
    found = [f"{room} has no floor: add it to FLOORS" for room in sorted(rooms - FLOORS.keys())]
    for path in sorted(package.rglob("*.py")):
        room = room_of(path, package)
        if room not in FLOORS:
            continue
        for line, name in imports(path, package):
            other = name[0] if name and name[0] in rooms else FACE
            if other == room or (other == FACE and (room == "cli" or (set(name) <= OPEN and name))):
                continue
            where = f"{path.relative_to(package).as_posix()}:{line}"
            if other == FACE:
                found.append(f"{where} imports {'.'.join(('edgeprune', *name))}: import it from its own room")
            elif other in FLOORS and FLOORS[other] >= FLOORS[room]:
                found.append(f"{where}: {room} ({FLOORS[room]}) imports {other} ({FLOORS[other]})")
    return found


def test_no_room_imports_a_neighbour_or_an_upper_floor() -> None:
    assert violations(Path(edgeprune.__file__).parent) == []


@dataclass(frozen=True)
class Case:
    """A file of a made-up package, and how the sentence about it begins; "" when all is well."""

    name: str
    file: str
    text: str
    expected: str = ""


CASES = (
    Case("down is fine", "graph/capture.py", "from edgeprune.errors import InputError"),
    Case("the own room is fine", "graph/rules.py", "from edgeprune.graph.capture import x"),
    Case("a relative import of the own room is fine", "graph/rules.py", "from .capture import x"),
    Case("a standard module of the same name is fine", "graph/rules.py", "import bundle, cli"),
    Case("the version is open to all", "bundle/write.py", "from edgeprune import __version__"),
    Case("the command line uses the face", "cli/fit.py", "import edgeprune"),
    Case(
        "upwards",
        "graph/rules.py",
        "from edgeprune.make import x",
        "graph/rules.py:1: graph (2) imports make",
    ),
    Case(
        "upwards by the package",
        "graph/rules.py",
        "from edgeprune import make",
        "graph/rules.py:1: graph (2)",
    ),
    Case(
        "upwards by a plain import", "graph/rules.py", "import edgeprune.make", "graph/rules.py:1: graph (2)"
    ),
    Case("upwards, relatively", "graph/rules.py", "from ..make import x", "graph/rules.py:1: graph (2)"),
    Case(
        "upwards, from the package, relatively",
        "graph/rules.py",
        "from .. import make",
        "graph/rules.py:1: graph",
    ),
    Case("a neighbour", "make.py", "import edgeprune.bundle", "make.py:1: make (4) imports bundle (4)"),
    Case("inside a function", "make.py", "def f():\n    import edgeprune.bundle", "make.py:2: make (4)"),
    Case(
        "under TYPE_CHECKING",
        "make.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from edgeprune.bundle import x",
        "make.py:3: make (4)",
    ),
    Case("the face, from below", "make.py", "from edgeprune import Task", "make.py:1 imports edgeprune.Task"),
    Case("the face itself, from below", "make.py", "import edgeprune", "make.py:1 imports edgeprune:"),
    Case("a room nobody placed", "attic.py", "", "attic has no floor"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_floor_test_sees(case: Case, tmp_path: Path) -> None:
    rooms = ("errors.py", "make.py", "graph/capture.py", "graph/rules.py", "bundle/write.py", "cli/fit.py")
    for name in (*rooms, case.file):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "__init__.py").write_text("from edgeprune.cli import fit")
    (tmp_path / case.file).write_text(case.text)
    found = violations(tmp_path)
    assert len(found) == (1 if case.expected else 0)
    assert "".join(found).startswith(case.expected)
