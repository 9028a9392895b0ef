"""House rules that can be read off the source: pure rooms, one name one meaning, plain first sentences."""

from __future__ import annotations

import ast
import re
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
    "recover/rates.py",
    "recover/recipe.py",
    "recover/ways.py",
    "pruning/criteria.py",
    "pruning/identity.py",
    "pruning/surgeon.py",
)
EFFECTS = ("torch", "onnx", "onnxruntime", "openvino", "time", "edgeprune.devices", "edgeprune.runtimes")
# One name in several files on purpose, each with its reason.
SHARED = {
    "Runner": "every runtime's file on the device has one, of the same protocol",
    "LostInt8": "the device's file raises its own, which the host's session turns into that of errors.py",
}
# Public constants of one name in several files, each with its reason.
SHARED_CONSTANTS = {
    "TABLE": "every door has one: the rows of a newcomer's addition",
    "BUILD_SECONDS": "host and device allow one time for a build, and the device's file imports nothing",
    "T": "a type variable",
}
# Beginnings of a first sentence that leave its subject open.
OPEN_BEGINNINGS = frozenset(
    [
        *("what", "which", "who", "whose", "how", "where", "when", "why"),
        *("this", "that", "these", "those", "it", "its", "they", "their", "there"),
    ]
)
# Tests of what crosses files, by folder; every other tests/ROOM/test_X.py is about edgeprune/ROOM/X.
BEHAVIOURS = {
    ".": (
        *("accuracy", "docs", "floors", "fuzz", "house", "readme"),
        *("surface", "survey", "without_vnni", "words", "zoo"),
    ),
    "cli": ("fit_over_ssh", "lying_devices", "main"),
    "devices": ("python38",),
    "examples": (
        *("cascade_service", "detector", "digits", "docstrings", "fraud"),
        *("keywords", "own_criterion", "own_training_loop"),
    ),
    "fitting": (
        "busy",
        "choices",
        "criterion",
        "directions",
        "killed",
        "meanings",
        "old_runs",
        "one_row",
        "predicted",
        "pretrained",
        "recover",
        "roads",
        "tiers",
    ),
    "pruning": ("doors",),
    "quantize": ("concatenations",),
    "records": ("old_records",),
    "recover": ("doors",),
    "runtimes": ("contract", "doors"),
    "search": ("proofs",),
    "tasks": ("doors",),
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


def constants(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Name and line of the constants of a file, of private ones too."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        for target in targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(name, ast.Name) and name.id.isupper():
                    yield name.id, node.lineno


def constants_with_two_meanings(package: Path) -> list[str]:
    """Public constants of one name that are defined in two files."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, tree in sources(package):
        for constant, line in constants(tree):
            if not constant.startswith("_"):
                places[constant].append(f"{name}:{line}")
    return [
        f"{constant}: {', '.join(found)}"
        for constant, found in places.items()
        if len(found) > 1 and constant not in SHARED_CONSTANTS
    ]


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s+(?=[A-Z`\"])", paragraph)[0]


def unclear(sentence: str) -> str | None:
    """Why the first sentence of a docstring needs a second reading; None when it reads well."""
    first, *_ = re.split(r"[^\w`]", sentence, maxsplit=1)
    if first.lower() in OPEN_BEGINNINGS:
        return f'begins with "{first}"'
    plain = re.sub(r"`[^`]*`|\"[^\"]*\"|\[[^\]]*\]", "", sentence)
    if len(re.findall(r":(?:\s|$)", plain)) > 1:
        return "has two colons"
    return None


def public(
    node: ast.Module | ast.ClassDef,
) -> Iterator[tuple[str, int, ast.Module | ast.ClassDef | ast.FunctionDef]]:
    """(name, line, node) of a module or class, and of everything public that is defined in it."""
    yield (node.name, node.lineno, node) if isinstance(node, ast.ClassDef) else ("the module", 1, node)
    for each in node.body:
        if isinstance(each, ast.ClassDef) and not each.name.startswith("_"):
            yield from public(each)
        elif isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
            yield each.name, each.lineno, each


def told_badly(package: Path) -> list[str]:
    """Modules, public classes and public functions whose first sentence is missing or unclear."""
    found = []
    for name, tree in sources(package):
        for called, line, node in public(tree):
            text = ast.get_docstring(node)
            if text is not None:
                why = unclear(first_sentence(text))
            else:
                why = None if isinstance(node, ast.FunctionDef) or not tree.body else "has no docstring"
            if why is not None:
                found.append(f"{name}:{line} {called} {why}")
    return found


RULES = (impure, in_two_rooms, two_meanings, constants_with_two_meanings, told_badly, long_functions)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.__name__)
def test_the_house_keeps(rule: Callable[[Path], list[str]]) -> None:
    assert rule(PACKAGE) == []


def test_tests_mirror_the_package() -> None:
    tests = Path(__file__).parent
    strangers: dict[str, tuple[str, ...]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        room, subject = path.relative_to(tests).parent, path.stem.removeprefix("test_")
        files = (PACKAGE / room / f"{subject}.py", PACKAGE / room / subject / "__init__.py")
        if not any(file.exists() for file in files):
            strangers[str(room)] = (*strangers.get(str(room), ()), subject)
    assert strangers == BEHAVIOURS


def test_the_main_loop_is_one_sitting() -> None:
    lines = (PACKAGE / "fitting" / "loop.py").read_text("utf-8").splitlines()
    assert len(lines) < LONGEST_LOOP


def test_every_shared_name_is_still_shared() -> None:
    names = [n.name for _, tree in sources(PACKAGE) for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
    assert all(names.count(name) > 1 for name in SHARED)
    values = [name for _, tree in sources(PACKAGE) for name, _ in constants(tree)]
    assert all(values.count(name) > 1 for name in SHARED_CONSTANTS)


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
    Fault(
        "a constant with two meanings",
        constants_with_two_meanings,
        {"graph/a.py": "NEAR = 1", "search/b.py": "NEAR: float = 2\nFAR, NEXT = 1, 2"},
        "NEAR: graph/a.py:1, search/b.py:1",
    ),
    Fault("a module without a sentence", told_badly, {"a.py": "x = 1"}, "a.py:1 the module has no docstring"),
    Fault(
        "a class without a sentence", told_badly, {"a.py": '"""A."""\nclass B: ...'}, "a.py:2 B has no doc"
    ),
    Fault("an open beginning", told_badly, {"a.py": '"""What it is."""'}, "a.py:1 the module begins"),
    Fault(
        "a pronoun without its noun",
        told_badly,
        {"a.py": '"""A file."""\ndef f():\n    """Its lines."""'},
        'a.py:2 f begins with "Its"',
    ),
    Fault("two colons", told_badly, {"a.py": '"""A: b: c."""'}, "a.py:1 the module has two colons"),
    Fault("a long function", long_functions, {"a.py": LONG}, "a.py:1 f has 61 lines"),
)


def package_of(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"cli/__init__.py": '"""Verbs."""\nVERBS = {"fit": "Fit."}', **files}.items():
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


def test_plain_first_sentences_are_not_told(tmp_path: Path) -> None:
    files = {
        "a.py": '"""Rows of a table: `a: b: c`. It may be empty."""\nTABLE = 1\n_N = 1\nT = 1',
        "graph/b.py": '"""Whether: [1: 2]."""\ndef f(): ...\nclass _C: ...\nTABLE = 1\n_N = 2',
        "search/c.py": "",
    }
    package = package_of(tmp_path, files)
    assert [rule(package) for rule in (constants_with_two_meanings, told_badly)] == [[], []]
