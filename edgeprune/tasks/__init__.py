"""Loading of a `Task` from MODEL, the first argument on the command line.

FILE.py[:NAME]              NAME (default `task`) is a function that returns a Task, or a Task
package.module:NAME         the same, imported by its module name
MODEL.pt2 --data DATA.npz   a `torch.export` file and named arrays; no Python file is run
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from edgeprune.errors import InputError
from edgeprune.limits import check_seed
from edgeprune.meaning.kinds import Said
from edgeprune.records.meaning import check_words
from edgeprune.records.task import Task
from edgeprune.tasks.check import check_task, training_again, training_pairs
from edgeprune.tasks.evaluation import GuardedLoss, call_evaluate, call_evaluate_samples
from edgeprune.tasks.guest import guest, walk
from edgeprune.tasks.items import flat_inputs, laid_out
from edgeprune.tasks.purity import capture_pure
from edgeprune.tasks.shuffled import scored

_SPELLINGS = "MODEL is FILE.py, FILE.py:NAME, package.module:NAME, or MODEL.pt2 with --data DATA.npz."


def load_task(model: str, data: Path | None = None, seed: int = 0, outputs: str | None = None) -> Task:
    """Task that `model` names; `seed` splits the rows of `data` into calibration, training and evaluation.

    outputs: what the outputs are, as on the command line: "classes", "classes,none", "a=classes,b=none".
    Raises `InputError` when there is no such task or the task cannot be made.
    """
    check_seed(seed)
    if Path(model).suffix == ".pt2":
        from edgeprune.tasks.exported import task_from_export

        return task_from_export(Path(model), data, seed, _said(outputs))

    from edgeprune.tasks.python import task_from_file, task_from_module

    file = re.fullmatch(r"(?P<path>.+\.py)(:(?P<name>.*))?", model)
    module = re.fullmatch(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>.*)", model)
    found = file or module
    if found is None:
        raise InputError(f"{model!r} is not a MODEL that edgeprune can read.", _hint(model))
    if data is not None:
        raise InputError(
            f"--data {data} was given with {model}, which brings its own data.",
            "Leave --data out, or give a MODEL.pt2 file.",
        )
    name = found["name"] if found["name"] is not None else "task"
    if not name.isidentifier():
        raise InputError(f"{name!r} in {model!r} is not a name that Python can hold.", _SPELLINGS)
    task = task_from_file(Path(file["path"]), name) if file else task_from_module(str(found["module"]), name)
    return task if outputs is None else replace(task, outputs=_said(outputs))


def _said(words: str | None) -> Said:
    """`Task.outputs` of an option's text."""
    if words is None:
        return None
    parts = [part.strip() for part in words.split(",")]
    named = [part.split("=", 1) for part in parts if "=" in part]
    if len(named) == len(parts):
        said: Said = {name.strip(): word.strip() for name, word in named}
    else:
        said = parts[0] if len(parts) == 1 else tuple(parts)
    check_words(said)
    return said


def _hint(model: str) -> str:
    if Path(model).suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        return (
            "Weights alone hold no model: write a FILE.py whose task() builds the model and loads them, "
            "or save the model with torch.export.save as a .pt2 file."
        )
    if Path(model).suffix == ".onnx":
        return "edgeprune prunes PyTorch models: give the model that the ONNX file was exported from."
    return _SPELLINGS


__all__ = [
    "GuardedLoss",
    "call_evaluate",
    "call_evaluate_samples",
    "capture_pure",
    "check_task",
    "flat_inputs",
    "guest",
    "laid_out",
    "load_task",
    "scored",
    "training_again",
    "training_pairs",
    "walk",
]
