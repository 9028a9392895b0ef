"""`edgeprune init`: a project file with every key, and a task to fill in where there is no model yet."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from edgeprune.cli.project import (
    OWN_FILE,
    SHARED_FILE,
    is_said,
    model_path,
    project_keys,
    project_table,
    project_values,
)
from edgeprune.cli.skeleton import SKELETON, TASK_FILE
from edgeprune.errors import InputError
from edgeprune.files import create, taken
from edgeprune.options import FitOptions
from edgeprune.shelf import load_profile, load_target
from edgeprune.toml import Table, literal

WIDEST = 100  # characters of a line of comment
# Values that a key without a default is shown with.
EXAMPLES: Mapping[str, Any] = MappingProxyType(
    {
        "data": "data.npz",
        "outputs": "classes",
        "columns": "text=review,label=stars",
        "metric": "f1",
        "tokens": 128,
        "seconds": 1.5,
        "target": "jetson",
        "profile": ("jetson-orin-nano", "jetson-agx-orin"),
        "latency_ms": (20, 10, 5),
        "speedup": 2,
        "memory_mib": 200,
        "size_mib": 3,
        "max_drop": "2%",
        "batch": 1,
        "threads": 4,
        "device": "ssh://pi@10.0.0.7",
        "lab": "lab.toml",
        "recover": "distill",
        "minutes": 30,
        "runtime": "onnxruntime",
        "out": "runs/mine",
    }
)
_HEAD = (
    "What edgeprune fit is asked here and in the folders below. A flag on the command line counts before its "
    "key; paths start at this folder. A key behind a # is not set, and shows its default or an example."
)
_MODEL = "The model, as edgeprune fit takes it: FILE.py[:NAME], package.module:NAME, or a saved model."


def project_file(values: Mapping[str, Any]) -> str:
    """Text of a project file with these values, and with every other key as a comment."""
    keys = project_keys()
    parts = [_comment(_HEAD)]
    for name, parameter in keys.items():
        told = _MODEL if name == "model" else getattr(parameter, "help", None) or ""
        shown = f"{name} = {literal(_single(values.get(name, _example(parameter))))}"
        parts.append(f"{_comment(told)}{'' if name in values else '#'}{shown}\n")
    return "\n".join(parts)


def _example(parameter: click.Parameter) -> Any:
    """Value that a key is shown with: its default, or an example of its type."""
    default = getattr(FitOptions(), str(parameter.name), None)
    if parameter.name != "out" and default is not None:
        return default
    by_type = next((v for kind, v in (("integer", 1), ("float", 1.0)) if parameter.type.name == kind), "...")
    return EXAMPLES.get(str(parameter.name), by_type)


def _single(value: Any) -> Any:
    """One value in the place of several that are one."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _comment(text: str) -> str:
    """Lines of comment; flags in it are told as the keys that they are."""
    told = re.sub(r"--([a-z-]+)", lambda flag: flag[1].replace("-", "_"), " ".join(text.split()))
    return "".join(f"# {line}\n" for line in textwrap.wrap(told, WIDEST, break_on_hyphens=False))


@click.command("init")
@click.argument("model", required=False)
def command(model: str | None, **options: Any) -> None:
    """Write an edgeprune.toml here, with every key of a project file and what it means.

    What is given here, by the flags of `edgeprune fit`, is set; every other key is a comment. Without MODEL a
    task.py to fill in is written, too. On a terminal MODEL and target are asked for. Nothing is overwritten.
    """
    context = click.get_current_context()
    given = {name: value for name, value in options.items() if is_said(context, name)}
    own, task = Path(OWN_FILE), Path(TASK_FILE)
    _check_free(own)
    if sys.stdin.isatty():
        model, given = _asked(model, given)
    content = {own: project_file({"model": TASK_FILE if model is None else model, **given}).encode()}
    project_values(Table.parse(own, content[own]), Path.cwd())
    if model is None:
        content = {task: SKELETON.encode(), **content}
        if task.exists() or task.is_symlink():
            raise taken(task, f"Give it as MODEL: edgeprune init {task}")
    else:
        _check_there(model)
    for name, load in (("target", load_target), ("profile", load_profile)):
        for one in _several(given.get(name)):
            load(one)
    _create(content)
    for path in content:
        click.echo(f"written: {path}")
    click.echo(f"next: {f'fill in {task}, then ' if model is None else ''}edgeprune fit")


command.params += [option for option in project_keys().values() if isinstance(option, click.Option)]


def _several(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value or ()


def _check_free(path: Path) -> None:
    """Refuse a file that would be overwritten, and a second project file in one folder."""
    if path.exists() or path.is_symlink():
        raise taken(path)
    shared = Path(SHARED_FILE)
    if path.name == OWN_FILE and shared.is_file() and project_table(shared) is not None:
        raise InputError(
            f"{shared} has a table [tool.edgeprune] already, and one folder has one project file.",
            "Write the keys there, or remove the table.",
        )


def _check_there(model: str) -> None:
    path = model_path(model)
    if path is not None and not path.exists():
        raise InputError(f"{path} does not exist.", f"Leave MODEL out to get a {TASK_FILE} to fill in.")


def _asked(model: str | None, given: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """MODEL and values as a person on a terminal completes them."""
    if model is None:
        told = "Model" if Path(TASK_FILE).exists() else f"Model (a new {TASK_FILE} is to be filled in)"
        said = click.prompt(told, default=TASK_FILE, err=True)
        model = None if said == TASK_FILE and not Path(TASK_FILE).exists() else said
    if "target" not in given and "profile" not in given:
        given = {**given, "target": click.prompt("Target", "local", value_proc=_target, err=True)}
    return model, given


def _target(said: str) -> str:
    try:
        load_target(said)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    return said


def _create(content: Mapping[Path, bytes]) -> None:
    """Write all files, or none."""
    made: list[Path] = []
    try:
        for path, text in content.items():
            create(path, text)
            made.append(path)
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
