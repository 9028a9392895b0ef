"""Forms of MODEL, the first argument on the command line: one row for each way to give a model.

A row says how MODEL is spelled, which MODEL it reads, and which options beside it. Whatever is given that
the row does not take is refused before anything is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.errors import InputError
from edgeprune.limits import MOST_TOKENS, check_seconds, check_seed, check_whole
from edgeprune.records.meaning import check_words

if TYPE_CHECKING:
    from edgeprune.meaning.kinds import Said
    from edgeprune.records.task import Task

_FILE = re.compile(r"(?P<path>.+\.py)(:(?P<name>.*))?")
_MODULE = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>.*)")


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options that say what a MODEL leaves open; None is an option that was not given.

    data: where the samples are. seed: shuffles and splits them. outputs: what the outputs are, as on the
    command line: "classes", "classes,none", "a=classes,b=none". columns: of the data by role, "text=review,
    label=stars". metric: a score by its name. tokens: of every text, which is padded or cut to that length;
    of several lengths, padded to the next or cut to the longest. seconds: of every recording.
    Raises `InputError` for a seed, a number of tokens or of seconds that is none.
    """

    data: Path | None = None
    outputs: str | None = None
    columns: str | None = None
    metric: str | None = None
    tokens: int | tuple[int, ...] | None = None
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        several = isinstance(self.tokens, tuple)
        for tokens in self.lengths:
            check_whole("--tokens", tokens, MOST_TOKENS, least=2 if several else 1)
        if several and (len(self.lengths) < 2 or len(set(self.lengths)) < len(self.lengths)):
            raise InputError(
                f"--tokens is {','.join(map(str, self.lengths))}.",
                "Give one number, or several different ones.",
            )
        if self.seconds is not None:
            check_seconds(self.seconds)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of texts, ascending; none where they were not said."""
        if self.tokens is None:
            return ()
        return tuple(sorted(self.tokens)) if isinstance(self.tokens, tuple) else (self.tokens,)

    @property
    def said(self) -> Said:
        """`Task.outputs` of `outputs`. Raises `InputError`."""
        if self.outputs is None:
            return None
        parts = [part.strip() for part in self.outputs.split(",")]
        named = [part.split("=", 1) for part in parts if "=" in part]
        if len(named) == len(parts):
            said: Said = {name.strip(): word.strip() for name, word in named}
        else:
            said = parts[0] if len(parts) == 1 else tuple(parts)
        check_words(said)
        return said


@dataclass(frozen=True)
class Form:
    """One form of MODEL, a row of `TABLE`.

    spelling: MODEL as help and docs write it. says: what it is, for docs/doors.md. reads: whether a MODEL is
    of this form. load: the task of a MODEL and its options; it imports what it needs. takes: the names of the
    options that it reads, the seed aside.
    """

    spelling: str
    says: str
    reads: Callable[[str], bool]
    load: Callable[[str, TaskOptions], Task]
    takes: frozenset[str]


def load_task(model: str, options: TaskOptions | None = None) -> Task:
    """Task that `model` names, by the first row of `TABLE` that reads it.

    Raises `InputError` when there is no such task, when it cannot be made, and for an option that its form
    does not take.
    """
    options = TaskOptions() if options is None else options
    form = next((form for form in TABLE.values() if form.reads(model)), None)
    if form is None:
        raise InputError(f"{model!r} is not a MODEL that edgeprune can read.", _hint(model))
    for field in fields(options):
        value = getattr(options, field.name)
        if value is not None and field.name != "seed" and field.name not in form.takes:
            others = [one.spelling for one in TABLE.values() if field.name in one.takes]
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise InputError(
                f"--{field.name} {shown} was given with {model}, and {form.spelling} takes none.",
                f"Leave --{field.name} out, or give a MODEL that is {' or '.join(others)}.",
            )
    return form.load(model, options)


def _hint(model: str) -> str:
    if Path(model).suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        return (
            "Weights alone hold no model: write a FILE.py whose task() builds the model and loads them, "
            "or save the model with torch.export.save as a .pt2 file."
        )
    return f"MODEL is {', '.join(form.spelling for form in TABLE.values())}."


def _from_export(model: str, options: TaskOptions) -> Task:
    from edgeprune.tasks.exported import task_from_export

    return task_from_export(Path(model), options.data, options.seed, options.said)


def _from_onnx(model: str, options: TaskOptions) -> Task:
    from edgeprune.tasks.from_onnx import task_from_onnx

    return task_from_onnx(Path(model), options.data, options.seed, options.said)


def _from_file(model: str, options: TaskOptions) -> Task:
    from edgeprune.tasks.python import task_from_file

    found = _FILE.fullmatch(model)
    path, name = (found["path"], found["name"]) if found else (model, None)
    return _as_said(task_from_file(Path(path), _python_name(model, name)), options)


def _from_module(model: str, options: TaskOptions) -> Task:
    from edgeprune.tasks.python import task_from_module

    module, _, name = model.partition(":")
    return _as_said(task_from_module(module, _python_name(model, name)), options)


def _from_folder(model: str, options: TaskOptions) -> Task:
    from edgeprune.tasks.pretrained import task_from_folder

    return task_from_folder(Path(model), options)


def _python_name(model: str, name: str | None) -> str:
    """The name behind the colon; "task" where there is no colon."""
    name = "task" if name is None else name
    if not name.isidentifier():
        raise InputError(f"{name!r} in {model!r} is not a name that Python can hold.", _hint(model))
    return name


def _as_said(task: Task, options: TaskOptions) -> Task:
    return task if options.outputs is None else replace(task, outputs=options.said)


# In this order: the first that reads a MODEL makes its task.
_ROWS = (
    Form(
        "MODEL.pt2",
        "A file of `torch.export.save`, with named arrays (`--data DATA.npz`); no Python file is run.",
        lambda model: Path(model).suffix == ".pt2",
        _from_export,
        frozenset({"data", "outputs"}),
    ),
    Form(
        "MODEL.onnx",
        "A float32 ONNX file, with named arrays (`--data DATA.npz`); no Python file is run.",
        lambda model: Path(model).suffix == ".onnx",
        _from_onnx,
        frozenset({"data", "outputs"}),
    ),
    Form(
        "FILE.py[:NAME]",
        "NAME in a Python file (`task` by default): a function that returns a `Task`, or a `Task`.",
        lambda model: _FILE.fullmatch(model) is not None,
        _from_file,
        frozenset({"outputs"}),
    ),
    Form(
        "package.module:NAME",
        "The same, imported by its module name.",
        lambda model: _MODULE.fullmatch(model) is not None,
        _from_module,
        frozenset({"outputs"}),
    ),
    Form(
        "FOLDER",
        "What `save_pretrained` of transformers wrote, with labelled rows (`--data`); its code is not run.",
        lambda model: bool(model.strip()) and Path(model).is_dir(),
        _from_folder,
        frozenset({"data", "columns", "metric", "tokens", "seconds"}),
    ),
)
TABLE: Mapping[str, Form] = {row.spelling: row for row in _ROWS}
