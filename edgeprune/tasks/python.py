"""Tasks from Python code: from a file, or from an importable module."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.records.task import Task
from edgeprune.tasks.blame import user_line, with_place


def task_from_file(path: Path, name: str) -> Task:
    """Task called `name` in the Python file `path`.

    The file's folder remains importable, as under `python FILE.py`: the task's functions may import
    neighbouring files when they are called. Raises `InputError`.
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {problem}.", f"Give the path of a Python file, seen from {Path.cwd()}.")
    # A prefix keeps task files called `model.py` or `json.py` from replacing modules of that name.
    module_name = f"_edgeprune_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"Python cannot import {path}.", "Give a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    _make_importable(path.resolve().parent)
    sys.modules[module_name] = module
    try:
        _guarded(lambda: spec.loader.exec_module(module) if spec.loader else None, str(path))
    except InputError:
        del sys.modules[module_name]
        raise
    return _task_in(module, name, str(path))


def task_from_module(module_name: str, name: str) -> Task:
    """Task called `name` in an importable module, which may lie in the working folder.

    Raises `InputError`.
    """
    _make_importable(Path.cwd())
    try:
        module = _guarded(lambda: importlib.import_module(module_name), module_name)
    except InputError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and _is_parent(missing.name, module_name):
            raise InputError(
                f"There is no module {missing.name!r} to import {module_name!r} from.",
                f"Install it in this environment, or run edgeprune in the folder that holds it "
                f"(now {Path.cwd()}).",
            ) from missing
        raise
    return _task_in(module, name, module_name)


def _task_in(module: ModuleType, name: str, where: str) -> Task:
    if not hasattr(module, name):
        defined = _own_names(module)
        close = get_close_matches(name, defined, n=1)
        example = f"{where}:{(close or defined or ['NAME'])[0]}"
        raise InputError(
            f"{where} does not define {name!r}; it defines {', '.join(defined) or 'nothing'}.",
            f"Define `def {name}() -> edgeprune.Task`, or name another function as {example}.",
        )
    value = getattr(module, name)
    if isinstance(value, Task):
        return value
    if not callable(value):
        raise InputError(
            f"{name!r} in {where} is {type(value).__name__}, neither an edgeprune.Task nor a function.",
            f"Define `def {name}() -> edgeprune.Task`.",
        )
    needed = _required_arguments(value)
    if needed:
        raise InputError(
            f"{name}() in {where} needs arguments ({', '.join(needed)}), and edgeprune calls it without.",
            "Give the arguments default values.",
        )
    task = _guarded(value, f"{name}() in {where}")
    if not isinstance(task, Task):
        raise InputError(
            f"{name}() in {where} returned {type(task).__name__}, not an edgeprune.Task.",
            "End it with `return edgeprune.Task(model=..., example=..., calibration=..., evaluate=...)`.",
        )
    return task


def _guarded(run: Callable[[], Any], where: str) -> Any:
    """Result of `run()`; errors of the user's code are translated to `InputError`."""
    try:
        return run()
    except SyntaxError as error:
        line = (error.text or "").strip()
        place = f"{error.filename or where}, line {error.lineno}"
        code = f": `{line}`" if line else ""
        raise InputError(f"{place}: {error.msg}{code}.", "Correct that line.") from error
    except InputError as error:  # the user built a Task from unusable parts
        raised_at = user_line(error)
        what = f"{error.what} ({raised_at})" if raised_at else error.what
        raise InputError(what, error.hint) from error
    except EdgepruneError:
        raise
    except SystemExit as error:
        raise InputError(
            f"{where} ended the program: {with_place(error)}.",
            'Put what runs as a script under `if __name__ == "__main__":`.',
        ) from error
    except ModuleNotFoundError as error:
        raise InputError(
            f"{where} raised {with_place(error)}.",
            f"Install {error.name} in this environment, or put it beside the file.",
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(f"{where} raised {with_place(error)}.", "Correct the line that raised.") from error


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _is_parent(name: str | None, module: str) -> bool:
    return name is not None and (module == name or module.startswith(name + "."))


def _own_names(module: ModuleType) -> list[str]:
    """Names of the functions, classes and tasks that a module defines itself, in the order of the file."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, Task) or getattr(value, "__module__", None) == module.__name__)
    ]


def _required_arguments(function: Callable[..., Any]) -> list[str]:
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables of C extensions have no signature
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in optional]
