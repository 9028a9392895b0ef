"""The public surface: `edgeprune.__all__` is whole, documented, lazy, and what docs/stability.md says."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import edgeprune
from edgeprune import errors

PACKAGE = Path(edgeprune.__file__).parent
STABILITY = PACKAGE.parent / "docs" / "stability.md"
# Types in the annotations of public names that are none themselves, each with its reason.
INTERNAL = {
    "Captured": "the graph inside a `Pruned`, which `Pruned.save` writes",
    "Numbered": "a protocol of the user's own data: whatever has a length and items by number",
}
NEED_TORCH = ("fit", "prune", "Pruned", "FrozenParameter", "Axis", "Group")


def public(name: str) -> Any:
    if name in NEED_TORCH:
        pytest.importorskip("torch", reason=f"edgeprune.{name} needs torch")
    return getattr(edgeprune, name)


def annotated(thing: Any) -> Iterator[Any]:
    """The types in a function's signature or in a record's fields."""
    if inspect.isfunction(thing):
        yield from typing.get_type_hints(thing).values()
    elif is_dataclass(thing):
        hints = typing.get_type_hints(thing, vars(sys.modules[thing.__module__]) | FOR_CHECKERS)
        yield from (hints[field.name] for field in fields(thing))


class _Torch:
    """In the place of `torch` in annotations."""

    Tensor = Module = nn = object


_Torch.nn = _Torch  # type: ignore[assignment, misc]
# What records import under TYPE_CHECKING; `Group` needs torch, and is public.
FOR_CHECKERS = {
    "torch": _Torch,
    "Device": edgeprune.Device,
    "Criterion": edgeprune.Criterion,
    "Group": object,
}


def classes(annotation: Any) -> Iterator[type]:
    """The classes of edgeprune that an annotation names, however deep."""
    if inspect.isclass(annotation) and annotation.__module__.startswith("edgeprune."):
        yield annotation
    for inner in typing.get_args(annotation):
        for each in inner if isinstance(inner, list) else [inner]:  # the arguments of a Callable
            yield from classes(each)


@pytest.mark.parametrize("name", edgeprune.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = public(name)
    written = inspect.getdoc(found) or ""
    assert found.__name__ == name
    assert written.split(".")[0]
    assert not written.startswith(f"{name}(")  # what `dataclass` writes where nobody did


@pytest.mark.parametrize("name", edgeprune.__all__)
def test_what_a_public_name_takes_and_gives_is_public(name: str) -> None:
    named = {each.__name__ for annotation in annotated(public(name)) for each in classes(annotation)}
    assert named <= {*edgeprune.__all__, *INTERNAL}


def test_every_error_is_public() -> None:
    raised = {name for name, each in vars(errors).items() if inspect.isclass(each)}
    assert raised <= set(edgeprune.__all__)


def test_a_name_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(AttributeError, match="'edgeprune' has no attribute 'brew'"):
        edgeprune.brew  # noqa: B018


def test_dir_lists_what_was_not_imported_yet() -> None:
    assert set(edgeprune.__all__) <= set(dir(edgeprune))


def test_no_room_shadows_a_public_name() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms & set(edgeprune.__all__) == set()


def fresh(code: str) -> str:
    """What code prints in a new interpreter that finds this edgeprune."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_importing_edgeprune_imports_neither_numpy_nor_a_framework() -> None:
    heavy = ("numpy", "torch", "onnx", "onnxruntime", "openvino", "click", "rich")
    code = f"import sys, edgeprune; print([name for name in {heavy} if name in sys.modules])"
    assert fresh(code) == "[]\n"


def test_validating_is_public_before_and_after_its_room_was_imported() -> None:
    code = (
        "import edgeprune; a = edgeprune.validate; import edgeprune.validating\n"
        "from edgeprune import validate\n"
        "print(a is validate is edgeprune.validating.validate)"
    )
    assert fresh(code) == "True\n"


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.skipif(not STABILITY.is_file(), reason="the docs are not beside the tests")
def test_the_documentation_lists_the_public_names() -> None:
    table = STABILITY.read_text("utf-8").split("## Public names", 1)[1].split("\n\n", 1)[0]
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(edgeprune.__all__)
