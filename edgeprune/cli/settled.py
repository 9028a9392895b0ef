"""Parameters of a call: the command line's, and the project file's where the command line says nothing.

A flag replaces its key. Three kinds of keys are set aside for a flag of another name, which they contradict:

- of two keys that exclude each other the one that is not given: `speedup` for `--latency-ms`, `epochs` for
  `--minutes`;
- with another target or profile than the file's, all that the file says of its machine: a device or threads
  of one machine tell nothing about another;
- with another MODEL than the file's, what describes the model, its run folder and its largest drop, which is
  in the unit of its metric.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgeprune.cli.project import (
    EXCLUSIVE,
    SHELVED,
    Project,
    find_project,
    is_module,
    is_said,
    model_identity,
    near,
    project_keys,
)
from edgeprune.errors import InputError
from edgeprune.foreign import escaped
from edgeprune.options import FitOptions
from edgeprune.records.trial import ProjectUse

MACHINE = (*SHELVED, "device", "runtime", "threads")
OF_MODEL = ("out", "max_drop")  # beside what is no field of `FitOptions`


@dataclass(frozen=True)
class Settled:
    """Parameters of a verb. use: of the project file; None where it gave nothing and lost nothing."""

    given: Mapping[str, Any]
    project: Project | None
    use: ProjectUse | None


def with_project(command: click.Command) -> click.Command:
    """Let a verb take from the project file what its command line leaves out, MODEL too."""
    for parameter in command.params:
        if parameter.name == "model":
            parameter.required = False
    run = command.callback

    def called(**given: Any) -> Any:
        context = click.get_current_context()
        said = {name: given[name] for name in given if is_said(context, name)}
        settled = settle(said, given)
        if given.get("model", "") is None and "model" not in settled.given:
            raise _no_model(settled.project)
        if settled.use is not None:
            _tell(settled.use)
        context.meta[__name__] = settled
        return None if run is None else run(**{**given, **settled.given})

    command.callback = called
    return command


def from_project(*names: str) -> Settled:
    """Keys of the project file for a verb that asks for some alone, told on stderr. Raises `InputError`."""
    settled = settle({}, names)
    if settled.use is not None:
        _tell(settled.use)
    return settled


def current() -> Settled:
    """Parameters of the verb that runs now."""
    found = click.get_current_context().meta[__name__]
    return found if isinstance(found, Settled) else Settled({}, None, None)


def model_folder() -> Path:
    """Folder that the default run folder lies in: the project file's where MODEL is of it, else this one."""
    settled = current()
    keys = () if settled.use is None else dict(settled.use.keys)
    return Path() if settled.project is None or "model" not in keys else near(settled.project.folder)


def settle(said: Mapping[str, Any], takes: Collection[str] | None = None) -> Settled:
    """Parameters as the command line `said` them, and those that the project file gives beside them.

    takes: the parameters that the verb has; None is all. Raises `InputError`.
    """
    project = find_project(Path.cwd())
    if project is None:
        return Settled(said, None, None)
    aside = {name: flag for name, flag in _excluded(said, project).items() if takes is None or name in takes}
    taken = [
        name
        for name in project.values
        if name not in said and name not in aside and (takes is None or name in takes)
    ]
    if not taken and not aside:
        return Settled(said, project, None)
    use = ProjectUse(
        project.name,
        tuple((name, project.table.written(name)) for name in taken),
        tuple(aside.items()),
    )
    values = {name: project.values[name] for name in taken}
    if is_module(values.get("model", "")):
        _make_importable(project.folder)
    return Settled({**said, **values}, project, use)


def _excluded(said: Mapping[str, Any], project: Project) -> dict[str, str]:
    """Keys of the file that fall with a flag of another name, and that flag."""
    values = project.values
    found = {}
    for pair in EXCLUSIVE:
        for one, other in (pair, pair[::-1]):
            if one in said:
                found[other] = _flag(one)
    if any(name in values for name in SHELVED):
        for name in SHELVED:
            if name in said and _shelf_identity(said[name]) != _shelf_identity(values.get(name)):
                found |= dict.fromkeys(MACHINE, _flag(name))
    models = [model_identity(each["model"]) for each in (said, values) if "model" in each]
    if len(set(models)) > 1:
        of_task = project_keys().keys() - FitOptions.__dataclass_fields__.keys() - {"lab"}
        found |= dict.fromkeys((*of_task, *OF_MODEL), "MODEL")
    return {name: found[name] for name in values if name in found and name not in said}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shelf_identity(value: str | tuple[str, ...] | None) -> object:
    """Names, and paths from the root, of a target or of profiles."""
    several = (value,) if isinstance(value, str) else value or ()
    return [os.path.abspath(one) if one.endswith(".toml") else one for one in several]


def _make_importable(folder: Path) -> None:
    """Let modules of the project's folder be imported, before those of the working folder."""
    for place in (Path.cwd(), folder):
        if str(place) not in sys.path:
            sys.path.insert(0, str(place))


def _tell(use: ProjectUse) -> None:
    from edgeprune.report.asked import project_words

    if os.environ.get("RANK", "0") == "0":  # of several processes under a launcher, one tells
        click.echo(escaped(f"with {project_words(use)}"), err=True)


def _no_model(project: Project | None) -> InputError:
    if project is not None:
        return InputError(
            f"No MODEL was given, and {project.name} names none.",
            'Give one, or write model = "task.py" there, as the file that edgeprune init writes has it.',
        )
    return InputError(
        "No MODEL was given, and there is no project file in this folder or above it.",
        "Give one, as in `edgeprune fit mytask.py`, or have a project file written: edgeprune init.",
    )


__all__ = ["Settled", "current", "from_project", "model_folder", "settle", "with_project"]
