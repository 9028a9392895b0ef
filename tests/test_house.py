"""House rules that can be read off the source: pure rooms, one name one meaning, functions of one sitting."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgeprune

PACKAGE = Path(edgeprune.__file__).parent
# Files that compute and decide, without a framework, a device or a clock: they are tested by the thousand.
PURE = (
    "search",
    "latency/curves.py",
    "latency/min_cut.py",
    "latency/roofline.py",
    "records",
    "recover/ways.py",
    "pruning/criteria.py",
    "pruning/identity.py",
)
EFFECTS = ("torch", "onnx", "onnxruntime", "openvino", "time", "edgeprune.devices", "edgeprune.runtimes")
# One name in several files on purpose, each with its reason.
SHARED = {
    "Runner": "every runtime's file on the device has one, of the same protocol",
    "LostInt8": "the device's file raises its own, which the host's session turns into that of errors.py",
}
LONGEST_FUNCTION = 60  # lines, its signature and docstring included
LONGEST_LOOP = 200  # lines of fitting/loop.py, which reads as the recipe


def sources(package: Path) -> Iterator[tuple[str, ast.Module]]:
    """(path below the package, syntax tree) of every file."""
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).as_posix(), ast.parse(path.read_text("utf-8"))


def effects(tree: ast.Module) -> list[str]:
    """Modules with an effect that a file imports, wherever in it; TYPE_CHECKING aside."""
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: list[str] = []
    for node in ast.walk(tree):
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted({e for name in names for e in EFFECTS if name == e or name.startswith(f"{e}.")})


def impure(package: Path) -> list[str]:
    """One sentence for each file on the PURE list that imports what has an effect."""
    return [
        f"{name} imports {', '.join(found)}"
        for name, tree in sources(package)
        if any(name == pure or name.startswith(f"{pure}/") for pure in PURE)
        if (found := effects(tree))
    ]


def verbs(package: Path) -> frozenset[str]:
    """The verbs of the command line: the keys of VERBS in cli/__init__.py."""
    tree = ast.parse((package / "cli" / "__init__.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            table = next((each for each in ast.walk(node.value) if isinstance(each, ast.Dict)), None)
            if ast.unparse(target) == "VERBS" and table is not None:
                return frozenset(ast.literal_eval(key) for key in table.keys if key is not None)
    raise AssertionError("cli/__init__.py has no table VERBS")


def in_two_rooms(package: Path) -> list[str]:
    """File names that stand in two rooms; `__init__.py` and the verbs of the command line aside."""
    told = {f"cli/{verb}.py" for verb in verbs(package)}
    places: dict[str, list[str]] = defaultdict(list)
    for name, _ in sources(package):
        if not name.endswith("__init__.py") and name not in told:
            places[Path(name).name].append(name)
    return [" and ".join(found) for found in places.values() if len(found) > 1]


def two_meanings(package: Path) -> list[str]:
    """Classes of one name that are defined twice, private ones and those inside functions too."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, tree in sources(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{name}:{node.lineno}")
    return [
        f"{name}: {', '.join(found)}"
        for name, found in places.items()
        if len(found) > 1 and name not in SHARED
    ]


def long_functions(package: Path) -> list[str]:
    """Functions that are longer than LONGEST_FUNCTION lines."""
    return [
        f"{name}:{node.lineno} {node.name} has {length} lines"
        for name, tree in sources(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]


@pytest.mark.parametrize(
    "rule", [impure, in_two_rooms, two_meanings, long_functions], ids=lambda r: r.__name__
)
def test_the_house_keeps(rule: Callable[[Path], list[str]]) -> None:
    assert rule(PACKAGE) == []


def test_the_main_loop_is_one_sitting() -> None:
    lines = (PACKAGE / "fitting" / "loop.py").read_text("utf-8").splitlines()
    assert len(lines) < LONGEST_LOOP


def test_every_shared_name_is_still_shared() -> None:
    names = [n.name for _, tree in sources(PACKAGE) for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    assert all(names.count(name) > 1 for name in SHARED)


def test_every_pure_place_exists() -> None:
    assert all((PACKAGE / place).exists() for place in PURE)


@dataclass(frozen=True)
class Fault:
    """A made-up package that breaks one rule, and how the sentence about it begins."""

    name: str
    rule: Callable[[Path], list[str]]
    files: Mapping[str, str]
    expected: str


LONG = "def f():\n" + "    x = 1\n" * LONGEST_FUNCTION
FAULTS = (
    Fault("a clock in a pure room", impure, {"search/a.py": "import time"}, "search/a.py imports time"),
    Fault(
        "a framework inside a function of a pure file",
        impure,
        {"latency/curves.py": "def f():\n    from torch import nn"},
        "latency/curves.py imports torch",
    ),
    Fault(
        "a device", impure, {"search/a.py": "from edgeprune import devices"}, "search/a.py imports edgeprune"
    ),
    Fault(
        "a name in two rooms", in_two_rooms, {"graph/a.py": "", "search/a.py": ""}, "graph/a.py and search/a"
    ),
    Fault("a name in a room and above", in_two_rooms, {"graph/a.py": "", "a.py": ""}, "a.py and graph/a.py"),
    Fault(
        "a class with two meanings",
        two_meanings,
        {"graph/a.py": "class Plan: ...", "search/b.py": "def f():\n    class _Plan: ..."},
        "Plan: graph/a.py:1, search/b.py:2",
    ),
    Fault("a long function", long_functions, {"a.py": LONG}, "a.py:1 f has 61 lines"),
)


def package_of(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"cli/__init__.py": "VERBS = {'fit': 'Fit.'}", **files}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_seen(fault: Fault, tmp_path: Path) -> None:
    (found,) = fault.rule(package_of(tmp_path, fault.files))
    assert found.startswith(fault.expected)


def test_what_is_allowed_is_not_told(tmp_path: Path) -> None:
    files = {
        "cli/fit.py": "",
        "fit.py": "class Runner: ...",
        "search/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nimport timeit",
        "graph/b.py": "class Runner: ...\nimport torch",
    }
    package = package_of(tmp_path, files)
    assert [rule(package) for rule in (impure, in_two_rooms, two_meanings, long_functions)] == [[]] * 4
