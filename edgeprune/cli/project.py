"""The project file: what `edgeprune fit` is asked where its command line says nothing.

It is `edgeprune.toml`, or the table [tool.edgeprune] of a pyproject.toml, in the working folder or the
nearest one above it. Its keys are the names of the parameters of `fit`, read off the command itself; paths in
it start at its folder. What the command line says counts before it: docs/project_file.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgeprune.cli.numbers import LargestDrop, Numbers, WholeNumbers
from edgeprune.errors import InputError
from edgeprune.foreign import escaped
from edgeprune.options import FitOptions
from edgeprune.records.machine import drop_line
from edgeprune.toml import LARGEST_FILE, Table

OWN_FILE, SHARED_FILE, SECTION = "edgeprune.toml", "pyproject.toml", "edgeprune"
# Parameters of `fit` that say how one call runs: they are no keys.
CALL_ONLY = ("resume", "as_json", "quiet")
SHELVED = ("target", "profile")  # names on the shelf, or paths of .toml files
# Keys of which one replaces the other.
EXCLUSIVE = (("latency_ms", "speedup"), ("epochs", "minutes"))
_PYTHON_FILE = re.compile(r"(?P<path>.+\.py)(?P<name>:.*)?")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Project:
    """A project file as it was read: `values` by parameter of `fit`, paths seen from the working folder."""

    path: Path  # absolute
    table: Table
    values: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def name(self) -> str:
        """Name of the file for people, seen from the working folder."""
        return escaped(str(self.table.path))


def project_keys() -> Mapping[str, click.Parameter]:
    """Parameters of `edgeprune fit` that are keys of a project file, by name."""
    from edgeprune.cli.fit import command

    return {
        parameter.name: parameter
        for parameter in command.params
        if parameter.name and parameter.expose_value and parameter.name not in CALL_ONLY
    }


def find_project(start: Path) -> Project | None:
    """Project file of a folder: in it, or in the nearest one above it that has one.

    A file above the folder that belongs to somebody else is passed over, with a sentence: it may name code
    that would run. Raises `InputError` for a folder that has two, and for a file that cannot be read.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        own, shared = folder / OWN_FILE, folder / SHARED_FILE
        found = [path for path in (own, shared) if _is_file(path)]
        if folder != start:
            found = [path for path in found if _is_trusted(path, start)]
        tables = [(path, table) for path in found if (table := project_table(path)) is not None]
        if len(tables) > 1:
            raise InputError(
                f"{near(own)} stands beside {near(shared)}, which has a table [tool.{SECTION}], too.",
                "Keep the keys of one of them.",
            )
        for path, table in tables:
            return Project(path, table, project_values(table, folder))
    return None


def near(path: Path) -> Path:
    """A path seen from the working folder, where it lies in that; else as it is."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def model_seen_from(folder: Path, model: str) -> str:
    """MODEL of a file in `folder`, seen from the working folder; the name of a module as it is."""
    file = _PYTHON_FILE.fullmatch(model)
    if file is not None:
        return f"{near(folder / file['path'])}{file['name'] or ''}"
    return model if is_module(model) else str(near(folder / model))


def model_identity(model: str) -> str:
    """Text that is equal for two spellings of one MODEL, seen from the working folder."""
    file = _PYTHON_FILE.fullmatch(model)
    if file is not None:
        return f"{os.path.abspath(file['path'])}{file['name'] or ':task'}"
    return model if is_module(model) else os.path.abspath(model)


def model_path(model: str) -> Path | None:
    """Path of the file or folder that MODEL names; None of a module."""
    file = _PYTHON_FILE.fullmatch(model)
    return None if is_module(model) else Path(model if file is None else file["path"])


def is_module(model: str) -> bool:
    """Whether MODEL is package.module:NAME."""
    return _PYTHON_FILE.fullmatch(model) is None and _MODULE.fullmatch(model) is not None


def is_said(context: click.Context, name: str) -> bool:
    """Whether the command line, and not a default, gives a parameter."""
    return context.get_parameter_source(name) not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder above that may not be read holds nothing for us
        return False


def _is_trusted(path: Path, start: Path) -> bool:
    """Whether a file is the user's, root's, or of whom the working folder is."""
    try:
        owner, expected = path.stat().st_uid, (os.geteuid(), 0, start.stat().st_uid)
    except OSError:
        return False
    if owner in expected:
        return True
    if path.name == OWN_FILE:
        click.echo(f"{escaped(str(path))} belongs to another user, and is passed over", err=True)
    return False


def project_table(path: Path) -> Table | None:
    """The keys in a file; None of a pyproject.toml without the table."""
    if path.name == OWN_FILE:
        return Table.read(near(path))
    try:
        with path.open("rb") as stream:
            named = SECTION.encode() in stream.read(LARGEST_FILE)
    except OSError:
        named = False
    if not named:  # other tools' files need not be TOML that we can read
        return None
    document = Table.read(near(path))
    tools = document.table("tool")
    return tools.table(SECTION) if SECTION in tools else None


def project_values(table: Table, folder: Path) -> Mapping[str, Any]:
    """Values of all keys, each checked by itself. Raises `InputError` with file and key."""
    keys = project_keys()
    for name in CALL_ONLY:
        flag = name.removeprefix("as_")
        if flag in table:
            raise table.error(flag, "is no key: it says how one call runs", f"Say --{flag} with the call.")
    table.only(*keys)
    values = {name: _value(table, name, keys[name], folder) for name in table}
    for one, other in EXCLUSIVE:
        if one in values and other in values:
            raise table.error(other, f"stands beside {one}, and one replaces the other", "Keep one of them.")
    options = FitOptions.__dataclass_fields__
    for name, value in values.items():
        try:
            FitOptions(**{name: value} if name in options else {})
        except InputError as error:
            problem = f"is {table.written(name)}, which no fit can be asked for"
            raise table.error(name, problem, error.hint) from error
    return values


def _value(table: Table, name: str, parameter: click.Parameter, folder: Path) -> Any:
    """Value of one key, of the type that the parameter takes."""
    kind = parameter.type
    if name == "model":
        return model_seen_from(folder, table.text(name))
    if isinstance(kind, Numbers):
        if kind.word is not None and table.is_text(name):
            return table.text(name, among=(kind.word,))
        return table.numbers(name)
    if isinstance(kind, LargestDrop):
        return _drop(table, name)
    if isinstance(kind, WholeNumbers):
        told = ",".join(str(int(n) if n.is_integer() else n) for n in table.numbers(name))
        return _converted(table, name, parameter, told)
    if isinstance(parameter, click.Option) and parameter.multiple:
        several = (table.text(name),) if table.is_text(name) else table.texts(name)
        return tuple(_file_or_name(one, folder) if name in SHELVED else one for one in several)
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return table.flag(name)
    if isinstance(kind, click.Choice):
        return table.text(name, among=kind.choices)
    if isinstance(kind, click.Path):
        return near(folder / table.text(name))
    if kind.name.startswith("integer"):
        return _converted(table, name, parameter, table.whole(name, least=0))
    if kind.name.startswith("float"):
        return _converted(table, name, parameter, table.number(name))
    text = _converted(table, name, parameter, table.text(name))
    return _file_or_name(text, folder) if name in SHELVED else text


def _converted(table: Table, name: str, parameter: click.Parameter, value: Any) -> Any:
    """The value as the flag takes it."""
    try:
        return parameter.type.convert(value, parameter, None)
    except click.BadParameter as error:
        raise table.error(name, f"is {table.written(name)}", error.message) from error


def _drop(table: Table, name: str) -> float | str:
    if not table.is_text(name):
        return table.number(name, zero=True)
    try:
        drop_line(table.text(name))
    except ValueError as error:
        problem = f'is {table.written(name)}, expected a number of 0 or more, or a text such as "2%"'
        raise table.error(name, problem) from error
    return table.text(name)


def _file_or_name(text: str, folder: Path) -> str:
    """Name on the shelf as it is; the path of a .toml file seen from the working folder."""
    return str(near(folder / text)) if text.endswith(".toml") else text
